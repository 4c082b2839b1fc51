package testenv

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Spec is how a process is started, and started again.
type Spec struct {
	Path string
	Args []string
	Env  []string // in addition to the test's own environment
	Dir  string   // working directory; empty is the test's own
}

// Process is a program that a test started. Its methods may be called from several
// goroutines. What it writes to stdout and stderr is kept over restarts.
type Process struct {
	Name string
	spec Spec
	log  string // path of its output

	mu   sync.Mutex
	last *run // the present run, or the last one
}

// run is one life of the process.
type run struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
	err  error         // how it ended; readable after done
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// StartProcess starts a program; the end of the test kills it, and keeps its output
// when the test has failed.
func StartProcess(t testing.TB, name string, spec Spec) *Process {
	t.Helper()
	p, err := startProcess(tempDir(t), name, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.endOfTest(t) })
	return p
}

func startProcess(dir, name string, spec Spec) (*Process, error) {
	p := &Process{Name: name, spec: spec, log: filepath.Join(dir, name+".log")}
	return p, p.Start()
}

// endOfTest kills the process. One that met a data race or a panic fails the test,
// whatever the test itself saw. Of a failed test only one line a process is shown, so
// that what went wrong is not buried: the path of its whole output.
func (p *Process) endOfTest(t testing.TB) {
	p.Kill()
	if line := p.alarm(); line != "" {
		t.Errorf("%s: %s", p.Name, line)
	}
	if !t.Failed() {
		return
	}
	kept, err := p.keep(t.Name())
	if err != nil {
		t.Logf("output of %s is lost: %v", p.Name, err)
		return
	}
	t.Logf("output of %s: %s", p.Name, kept)
}

// keep copies the output to where it outlives the test; the next failure of the same
// test replaces it.
func (p *Process) keep(test string) (string, error) {
	dir := filepath.Join(os.TempDir(), "flashgate-failed", strings.ReplaceAll(test, "/", "."))
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	path := filepath.Join(dir, p.Name+".log")
	return path, os.WriteFile(path, []byte(p.Output()), 0o644)
}

// alarm is the first line of the output with which the Go runtime reports what no
// program may do.
func (p *Process) alarm() string {
	for line := range strings.Lines(p.Output()) {
		for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
			if strings.HasPrefix(line, sign) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

// Start starts the program again after it has ended.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil && !p.last.ended() {
		return fmt.Errorf("%s is running", p.Name)
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(p.spec.Path, p.spec.Args...)
	cmd.Env = append(os.Environ(), p.spec.Env...)
	cmd.Dir = p.spec.Dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childAttr()
	r, started := &run{cmd: cmd, done: make(chan struct{})}, make(chan error, 1)
	go r.reap(started)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.last = r
	return nil
}

// reap starts the child and waits for it on one locked thread, since the death
// signal is tied to the thread that started the child, not to the whole process.
func (r *run) reap(started chan<- error) {
	defer close(r.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := r.cmd.Start()
	started <- err
	if err == nil {
		r.err = r.cmd.Wait()
	}
}

func (p *Process) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// Running reports whether the process has been started and has not ended.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last != nil && !p.last.ended()
}

// Pid is the process id of the present (or last) run.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.cmd.Process.Pid
}

// Signal sends a signal; a process that has ended is left alone.
func (p *Process) Signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil && !p.last.ended() {
		_ = p.last.cmd.Process.Signal(sig)
	}
}

// Kill ends the process with SIGKILL and waits for its end.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	if r := p.current(); r != nil {
		<-r.done
	}
}

// Stop freezes the process with SIGSTOP: its connections stay open and nobody answers.
func (p *Process) Stop() { p.Signal(syscall.SIGSTOP) }

// Cont lets a frozen process go on.
func (p *Process) Cont() { p.Signal(syscall.SIGCONT) }

// Terminate asks the process to end with SIGTERM and returns how it ended, like Wait.
func (p *Process) Terminate() error {
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Wait returns how the process ended (nil is exit status 0); one that has not ended
// after Patience is killed, and that is an error.
func (p *Process) Wait() error {
	r := p.current()
	select {
	case <-r.done:
		return r.err
	case <-time.After(Patience):
		p.Kill()
		return fmt.Errorf("%s did not end within %v", p.Name, Patience)
	}
}

// Output is everything the process has written, over all its runs.
func (p *Process) Output() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

func (p *Process) tail(n int) []byte {
	b, _ := os.ReadFile(p.log)
	if len(b) > n {
		b = b[len(b)-n:]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return b
}

// await polls until the server answers; a server that ended will not.
func (p *Process) await(ready func() error) error {
	var last error
	ok := poll(func() bool {
		last = ready()
		return last == nil || !p.Running()
	})
	if last == nil {
		return nil
	}
	how := fmt.Sprintf("does not answer within %v", Patience)
	if ok {
		how = "ended instead of serving"
	}
	return fmt.Errorf("its last output:\n%s\n%s %s: %w", p.tail(2000), p.Name, how, last)
}
