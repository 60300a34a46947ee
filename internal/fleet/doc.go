// Package fleet is a trial: it keeps many grants alive with many processes, in every ordinary trouble, and measures what that
// costs. Worker processes use a grants.Manager each, on one PostgreSQL, while the fake Apple Business replaces each refresh token
// and keeps a ledger.
//
//	internal/fleet/run.sh -processes 8 -grants 50 -for 30s
//
// run.sh starts a PostgreSQL and a pgbouncer of its own, and runs TestFleet. It prints a line a second on stderr, and in the end
// one line of figures. The exit status is 1 if a refresh token was lost, a customer was told to reconnect falsely, or another goal
// was missed. The flag -h lists the troubles, which can be combined. One that lasts takes another duration after "=", such as
// -freeze=1m, and needs a longer run then. A worker's lease of a grant lasts 20 seconds and Apple's latency.
//
// A killed process can take a refresh token along: Apple has replaced the one before when it responds, and until it is saved the
// new one is in that process only. No client can close that gap, only keep it short; a lost response is the same.
package fleet
