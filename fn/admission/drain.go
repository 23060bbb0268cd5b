package admission

import (
	"fmt"
	"strings"
	"time"

	"github.com/meshless-dev/meshless/internal/podplan"
)

// The grace period of a pod decides how long the proxy drains. From this many seconds on, the command lines have one
// form; below it, a table has them.
const formFrom = 20

// gracePeriod are the variables that say how many seconds a pod gives its proxy: Plan.SetGracePeriod in CEL.
func gracePeriod() []variable {
	return []variable{
		{"grace", "object.spec.?terminationGracePeriodSeconds.orValue(30)"},
		{"total", "variables.grace > 6 ? variables.grace - 5 : 1"},
	}
}

// drained is an expression for a command line that depends on the grace period. It writes the plan with some grace
// periods and takes what differs from the results, so that it knows neither flags nor defaults.
func drained(p *podplan.Plan, args func(*podplan.Plan) []string) string {
	at := func(total int64) []string {
		of, grace := *p, total+5
		of.SetGracePeriod(&grace)
		return args(&of)
	}
	const long = 1_000_000
	some := at(long)
	flag, place, less := "", -1, int64(0)
	for i, text := range some {
		name, value, found := strings.Cut(text, "=")
		if d, err := time.ParseDuration(value); found && err == nil && strings.Join(at(long+1), " ") != strings.Join(some, " ") && at(long + 1)[i] != text {
			flag, place, less = name+"=", i, long-int64(d/time.Second)
		}
	}
	if place < 0 {
		return texts(some)
	}
	before, after := some[:place], some[place+1:]
	form := "(" + optionalFlag(flag, less, len(some), at) + ")"
	if len(before) > 0 {
		form = texts(before) + " + " + form
	}
	if len(after) > 0 {
		form += " + " + texts(after)
	}
	if strings.Join(at(1), " ") == strings.Join(formed(before, flag, 1-less, after), " ") {
		return form
	}
	var table []string
	for total := int64(1); total < formFrom; total++ {
		table = append(table, texts(at(total)))
	}
	return fmt.Sprintf("variables.total < %d ? [\n  %s\n][variables.total - 1] : %s", formFrom, strings.Join(table, ",\n  "), form)
}

// formed is a command line with the flag of a number of seconds.
func formed(before []string, flag string, n int64, after []string) []string {
	return append(append(append([]string{}, before...), flag+(time.Duration(n)*time.Second).String()), after...)
}

// optionalFlag is the flag as a list in CEL, empty at its default, with which the command line is shorter.
func optionalFlag(flag string, less int64, length int, at func(int64) []string) string {
	n := "variables.total"
	if less != 0 {
		n = fmt.Sprintf("(variables.total - %d)", less)
	}
	some := fmt.Sprintf("[%q + %s]", flag, seconds(n))
	for total := int64(1); total <= 60; total++ {
		if len(at(total)) < length {
			return fmt.Sprintf("variables.total == %d ? [] : %s", total, some)
		}
	}
	return some
}
