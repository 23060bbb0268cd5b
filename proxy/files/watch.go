package files

import (
	"context"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

// WatchOptions are the times of Watch; zero values mean the defaults.
type WatchOptions struct {
	Poll     time.Duration // how often changed is called without an event; default 10 s
	Debounce time.Duration // how long the directory must be quiet after an event; default 200 ms
	Log      *slog.Logger
}

// Watch calls changed once at the start, shortly after something in directory changed, and every Poll: not every
// file system has inotify, and a directory may appear late. All calls come from the calling goroutine. Watch
// returns when ctx ends.
func Watch(ctx context.Context, directory string, o WatchOptions, changed func()) {
	if o.Poll <= 0 {
		o.Poll = 10 * time.Second
	}
	if o.Debounce <= 0 {
		o.Debounce = 200 * time.Millisecond
	}
	w := &watch{directory: directory, log: o.Log}
	defer w.close()
	poll := time.NewTicker(o.Poll)
	defer poll.Stop()
	quiet := time.NewTimer(0) // the call at the start
	defer quiet.Stop()
	for {
		events, errs := w.channels()
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				w.close()
				continue
			}
			quiet.Reset(o.Debounce)
		case <-errs: // an overflow of the queue: something changed
			quiet.Reset(o.Debounce)
		case <-poll.C:
			w.retry()
			changed()
		case <-quiet.C:
			changed()
		}
	}
}

// watch is an fsnotify watcher that is made when it is needed and may be missing: then polling alone finds changes.
type watch struct {
	directory string
	log       *slog.Logger
	watcher   *fsnotify.Watcher
	failed    bool
}

// channels returns nil channels, on which a select waits for ever, while there is no watcher.
func (w *watch) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.watcher == nil && !w.failed {
		w.open()
	}
	if w.watcher == nil {
		return nil, nil
	}
	return w.watcher.Events, w.watcher.Errors
}

func (w *watch) open() {
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		if err = watcher.Add(w.directory); err != nil {
			watcher.Close()
		}
	}
	if err != nil {
		w.failed = true // until the next poll
		if w.log != nil {
			w.log.Debug("directory cannot be watched, polling it", "directory", w.directory, "error", err)
		}
		return
	}
	w.watcher = watcher
}

// retry makes room for a new watcher when the last one could not be made, or has lost its directory. A good one stays:
// the kernel counts inotify instances per user, and every proxy of a node has the same one.
func (w *watch) retry() {
	if w.failed || (w.watcher != nil && len(w.watcher.WatchList()) == 0) {
		w.close()
	}
}

func (w *watch) close() {
	if w.watcher != nil {
		w.watcher.Close()
	}
	w.watcher, w.failed = nil, false
}
