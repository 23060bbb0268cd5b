// Package simulation proves that certificates rotate without a dropped handshake. A fleet of pods lives for three years
// under an injected clock: Git is rendered by the real function (fn/pipeline), late, skipped and reverted; nodes apply
// it up to a day later or hang for a week; kubelets swap the files of a pod minutes later and sometimes torn; clocks
// are wrong by five minutes. Whenever the files of a pod change, every handshake that this changes is verified by the
// code that the proxies run (internal/svid). What may fail, and why, is written in one place: law_test.go. Mutants
// break one rule each, and the simulation must notice.
//
// It needs nothing but Go. A run is repeated by its seed; MESHLESS_SIM_SEEDS=n runs n seeds of every profile instead of
// one.
package simulation
