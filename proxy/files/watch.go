package files

import (
	"cmp"
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
	w := rewatch(nil, directory, o.Log)
	defer func() { closeWatcher(w) }()
	poll := time.NewTicker(cmp.Or(o.Poll, 10*time.Second))
	defer poll.Stop()
	quiet := time.NewTimer(0) // the call at the start
	defer quiet.Stop()
	for {
		var events <-chan fsnotify.Event // of nil a select waits for ever
		var errs <-chan error
		if w != nil {
			events, errs = w.Events, w.Errors
		}
		select {
		case <-ctx.Done():
			return
		case <-events:
			quiet.Reset(cmp.Or(o.Debounce, 200*time.Millisecond))
		case <-errs: // an overflow of the queue: something changed
			quiet.Reset(cmp.Or(o.Debounce, 200*time.Millisecond))
		case <-poll.C:
			w = rewatch(w, directory, o.Log)
			changed()
		case <-quiet.C:
			changed()
		}
	}
}

// rewatch returns a new watcher where there is none, or where w has lost its directory. A good one stays: the kernel
// counts inotify instances per user, and every proxy of a node has the same one. The result is nil where the directory
// cannot be watched: then polling alone finds changes.
func rewatch(w *fsnotify.Watcher, directory string, log *slog.Logger) *fsnotify.Watcher {
	if w != nil && len(w.WatchList()) > 0 {
		return w
	}
	closeWatcher(w)
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(directory); err == nil {
			return w
		}
		w.Close()
	}
	if log != nil {
		log.Debug("directory cannot be watched, polling it", "directory", directory, "error", err)
	}
	return nil
}

func closeWatcher(w *fsnotify.Watcher) {
	if w != nil {
		w.Close()
	}
}
