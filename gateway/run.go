package gateway

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// listen binds both addresses, so that they are known, and an error is told, before
// anything else starts. Calling it again does nothing.
func (g *Gateway) listen() error {
	if err := g.buyers.listen(g); err != nil {
		return err
	}
	if err := g.operators.listen(g); err != nil {
		_ = g.buyers.ln.Swap(nil).Close()
		return err
	}
	return nil
}

// BuyersAddr is the bound address of the buyers' listener; nil before Run has it.
func (g *Gateway) BuyersAddr() net.Addr { return g.buyers.bound() }

// OperatorsAddr is the bound address of the operators' listener; nil before Run has it.
func (g *Gateway) OperatorsAddr() net.Addr { return g.operators.bound() }

func (l *listener) bound() net.Addr {
	if ln := l.ln.Load(); ln != nil {
		return ln.Addr()
	}
	return nil
}

// Run serves both listeners until ctx ends, and then drains: /readyz says no, after
// DrainDelay purchases are refused, event streams end and the buyers' listener closes,
// requests in flight get their answers within ShutdownTimeout, and the operators' listener closes last.
// The queue and what is behind it must outlive Run. An error means that a listener
// failed, or that requests were still in flight at the deadline.
func (g *Gateway) Run(ctx context.Context) error {
	if err := g.listen(); err != nil {
		return err
	}
	background, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { g.deadlines.run(background) })
	parts.Go(func() { g.marks.run(background) })
	parts.Go(func() { g.streams.run(background) })

	failed := make(chan error, 2)
	var servers sync.WaitGroup
	for _, l := range []*listener{g.buyers, g.operators} {
		servers.Go(func() { failed <- l.serve() })
	}
	g.log.Info("listening", "buyers", g.BuyersAddr().String(), "operators", g.OperatorsAddr().String())

	var err error
	select {
	case <-ctx.Done():
		g.draining.Store(true)
		err = g.linger(failed)
	case err = <-failed:
	}
	err = errors.Join(err, g.close())
	servers.Wait()
	stop()
	parts.Wait()
	return err
}

// linger goes on serving while load balancers notice.
func (g *Gateway) linger(failed <-chan error) error {
	delay := time.NewTimer(g.cfg.DrainDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
		return nil
	case err := <-failed:
		return err
	}
}

// close ends both servers, the operators' last, so that a drain can be watched.
func (g *Gateway) close() error {
	g.draining.Store(true)
	g.refusing.Store(true)
	g.streams.close()
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.ShutdownTimeout)
	defer cancel()
	err := g.buyers.shutdown(ctx)
	short, cancelShort := context.WithTimeout(context.Background(), time.Second)
	defer cancelShort()
	// What operators still watch is cut off; nothing of theirs is lost by that.
	_ = g.operators.shutdown(short)
	return err
}
