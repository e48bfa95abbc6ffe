package mcphttp

import "time"

// workers are the goroutines of calls. One that has nothing to do waits for
// another call for a while: its stack has grown already to what a call needs,
// and growing it again costs more than the rest of the goroutine.
type workers struct {
	jobs chan func()     // taken by one who waits
	quit <-chan struct{} // closed when nobody is to wait any more
}

// workerIdle is how long a worker waits for another call.
const workerIdle = time.Second

// do runs job on a goroutine of its own.
func (w *workers) do(job func()) {
	select {
	case w.jobs <- job:
	default:
		go w.work(job)
	}
}

func (w *workers) work(job func()) {
	wait := time.NewTimer(workerIdle)
	defer wait.Stop()
	for {
		job()
		wait.Reset(workerIdle)
		select {
		case job = <-w.jobs:
		case <-wait.C:
			return
		case <-w.quit:
			return
		}
	}
}
