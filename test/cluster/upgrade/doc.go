// Package upgrade replaces the edition before this one in a running mesh, and puts it back: the state that it wrote
// into Git, its maps, leaves and proxies. Pods roll one Deployment after the other, under load, so each edition is
// client and server of the other for a while. edition.sh builds the old one.
package upgrade
