package results

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	// monitorEvery is how often the servers are asked again: a server may come back with
	// another setting.
	monitorEvery = time.Minute
	// monitorTimeout bounds one question.
	monitorTimeout = 2 * time.Second
)

// syncing is what is known of whether the servers sync what they acknowledge.
type syncing struct {
	lazy []string // what a server does instead, a line each
	dark []string // why it is not known of a server
}

// notes are what is to be said of it.
func (s *syncing) notes() []string {
	if s == nil {
		return nil
	}
	return append(append([]string(nil), s.lazy...), s.dark...)
}

// askSyncing asks the servers how they keep what they acknowledge: a client is not told.
func (c *Conn) askSyncing(ctx context.Context) *syncing {
	s := &syncing{}
	for _, url := range c.cfg.Monitors {
		interval, always, err := askServer(ctx, url)
		switch {
		case err != nil:
			s.dark = append(s.dark, fmt.Sprintf("nats %s: its sync_interval is unknown: %v", url, err))
		case !always:
			s.lazy = append(s.lazy, fmt.Sprintf("nats %s: its sync_interval is %v, not always: what it acknowledged since is lost when power fails, with replicas if it fails for all of them", url, interval))
		}
	}
	return s
}

// askServer reads the setting from a server's monitoring port.
func askServer(ctx context.Context, url string) (interval time.Duration, always bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/jsz", nil)
	if err != nil {
		return 0, false, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = res.Body.Close() }()
	var said struct {
		Disabled bool   `json:"disabled"`
		Server   string `json:"server_id"`
		Config   struct {
			Interval time.Duration `json:"sync_interval"`
			Always   bool          `json:"sync_always"`
		} `json:"config"`
	}
	if res.StatusCode != http.StatusOK {
		return 0, false, fmt.Errorf("it answers %s", res.Status)
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, res.Body, 1<<20)).Decode(&said); err != nil || said.Server == "" || said.Disabled {
		return 0, false, fmt.Errorf("it says nothing of JetStream (disabled %t, error %v)", said.Disabled, err)
	}
	return said.Config.Interval, said.Config.Always, nil
}

// checkSyncing asks once and says what is new. Lazy servers are an error where
// Config.RequireSync is set.
func (c *Conn) checkSyncing(ctx context.Context) error {
	s := c.askSyncing(ctx)
	if ctx.Err() != nil {
		return nil
	}
	before := c.syncing.Swap(s)
	if notes := s.notes(); strings.Join(notes, "\n") != strings.Join(before.notes(), "\n") {
		for _, note := range notes {
			c.cfg.Log.Warn(note)
		}
		if len(notes) == 0 {
			c.cfg.Log.Info("nats keeps what it acknowledges on its disks", "servers", c.cfg.Monitors)
		}
	}
	if c.cfg.RequireSync && len(s.lazy) > 0 {
		return fmt.Errorf("%s (nats.require_sync)", s.lazy[0])
	}
	return nil
}

// watchSyncing asks at the start and then now and then, until ctx ends. Only what is found
// at the start may end it: a gateway that sells goes on, and says so.
func (c *Conn) watchSyncing(ctx context.Context) error {
	if len(c.cfg.Monitors) == 0 {
		if c.cfg.Embedded == nil {
			c.cfg.Log.Warn("it is unknown whether nats keeps what it acknowledges on its disks: set nats.monitor_url, and sync_interval: always on each server")
		}
		return nil
	}
	if err := c.checkSyncing(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(monitorEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_ = c.checkSyncing(ctx) // said
		}
	}
}
