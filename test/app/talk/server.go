package talk

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"strconv"
	"sync"
)

// Report is a line of the server's output: a connection has come, or has ended.
type Report struct {
	Port     int    `json:"port"`
	Local    string `json:"local"` // the address at which it came
	Peer     string `json:"peer"`
	Ended    bool   `json:"ended"`
	Received int64  `json:"received"`        // bytes until the end
	Error    string `json:"error,omitempty"` // what was not as it should be
}

// Serve listens on ports, on all addresses, and holds the server's half of every conversation until ctx ends. It
// reports to out, in JSON, a line for each connection that comes and one for each that has ended.
func Serve(ctx context.Context, ports []int, out io.Writer) error {
	s := &server{out: json.NewEncoder(out)}
	for _, port := range ports {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		defer listener.Close()
		go s.accept(listener, port)
	}
	<-ctx.Done()
	return nil
}

type server struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (s *server) accept(listener net.Listener, port int) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed by Serve
		}
		go func() {
			r := Report{Port: port, Local: conn.LocalAddr().String(), Peer: conn.RemoteAddr().String()}
			s.report(r)
			received, err := Server(conn.(*net.TCPConn), port)
			if err != nil {
				r.Error = err.Error()
			}
			r.Ended, r.Received = true, received
			s.report(r)
		}()
	}
}

func (s *server) report(r Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.out.Encode(r) // who reads it finds the line missing
}
