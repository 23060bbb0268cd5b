package nameserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// upstreamSize is of answers by UDP: it fits every path without fragments.
const upstreamSize = 1232

// forward asks each name server until one answers, and a second time since a datagram can be lost. NOERROR and NXDOMAIN
// are answers, everything else is none.
func (s *Server) forward(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	question := new(dns.Msg).SetQuestion(name, kind)
	question.SetEdns0(upstreamSize, false)
	err := errors.New("no name server is configured")
	for _, server := range slices.Concat(s.o.Servers, s.o.Servers) {
		if ctx.Err() != nil {
			break
		}
		for _, network := range []string{"udp", "tcp"} {
			var answer *dns.Msg
			if answer, err = s.o.ask(ctx, transport{network, server}, question); err == nil {
				err = fits(question, answer)
			}
			if err != nil {
				err = fmt.Errorf("name server %s: %w", server, err)
				break
			}
			if !answer.Truncated || network == "tcp" {
				return answer, nil
			}
		}
	}
	return nil, err
}

// exchange is one query, from a port of its own.
func exchange(ctx context.Context, t transport, question *dns.Msg) (*dns.Msg, error) {
	client := dns.Client{Net: t.network, Timeout: serverTimeout}
	answer, _, err := client.ExchangeContext(ctx, question, t.server.String())
	return answer, err
}

// fits checks that answer is one to question, and that it says something.
func fits(question, answer *dns.Msg) error {
	if answer == nil || !answer.Response || len(answer.Question) != 1 || answer.Question[0].Qtype != question.Question[0].Qtype ||
		!strings.EqualFold(answer.Question[0].Name, question.Question[0].Name) {
		return errors.New("answers another question")
	}
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return fmt.Errorf("answers %s", dns.RcodeToString[answer.Rcode])
	}
	return nil
}
