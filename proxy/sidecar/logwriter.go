package sidecar

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	maxQueuedLog = 1 << 20         // bytes; some thousand lines
	lastLines    = 1 * time.Second // for what is queued at the end of the process
)

// logWriter writes a log to where writing may block, such as a pipe that a container runtime does not read while it
// restarts. What logs never waits: every connection logs its end, so one that waited would stop the proxy. Lines wait
// in a queue, and are lost when that is full, or when they cannot be written. A line says how many, once one can be
// written again. Make it with newLogWriter.
type logWriter struct {
	out io.Writer

	mu     sync.Mutex
	idle   *sync.Cond // no longer busy
	queue  bytes.Buffer
	lines  uint64 // in queue
	busy   bool   // a goroutine writes what is queued, and ends when nothing is
	lost   uint64 // since the process began
	untold uint64 // of these
}

// newLogWriter is one that has nothing to write yet.
func newLogWriter(out io.Writer) *logWriter {
	w := &logWriter{out: out}
	w.idle = sync.NewCond(&w.mu)
	return w
}

// Write queues one line, as slog writes it. It never fails.
func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue.Len()+len(line) > maxQueuedLog {
		w.lost++
		w.untold++
		return len(line), nil
	}
	w.queue.Write(line)
	if w.lines++; !w.busy {
		w.busy = true
		go w.write()
	}
	return len(line), nil
}

// Lost counts the lines that were lost.
func (w *logWriter) Lost() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// flush waits until the queue is written, but not longer than a moment.
func (w *logWriter) flush() {
	written := make(chan struct{})
	go func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for w.busy {
			w.idle.Wait()
		}
		close(written)
	}()
	select {
	case <-written:
	case <-time.After(lastLines):
	}
}

func (w *logWriter) write() {
	for {
		batch, lines, untold := w.take()
		if lines == 0 {
			return
		}
		if untold > 0 {
			batch = append(lostLine(untold), batch...)
		}
		_, err := w.out.Write(batch)
		if err != nil {
			w.mu.Lock()
			w.lost += lines
			w.untold += lines + untold
			w.mu.Unlock()
		}
	}
}

// lostLine says that lines were lost.
func lostLine(lines uint64) []byte {
	var line bytes.Buffer
	slog.New(slog.NewJSONHandler(&line, nil)).Warn("log lines were lost", "lines", lines,
		"hint", "standard error was not read, or could not be written: did the container runtime restart, is the node's disk full?")
	return line.Bytes()
}

// take is what is to be written; nothing ends the writing.
func (w *logWriter) take() (batch []byte, lines, untold uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lines == 0 {
		w.busy = false
		w.idle.Broadcast()
		return nil, 0, 0
	}
	batch, lines, untold = bytes.Clone(w.queue.Bytes()), w.lines, w.untold
	if w.queue.Reset(); w.queue.Cap() > maxQueuedLog/16 {
		w.queue = bytes.Buffer{} // what a stuck log took is given back
	}
	w.lines, w.untold = 0, 0
	return batch, lines, untold
}
