// Package grants keeps the grants of a partner's customers alive, in one process or in a fleet of them.
//
// A grant is what a customer gave at Apple's consent page: an access token that lives an hour, and a refresh token that
// may be replaced each time it is used. Whoever loses the newest one has to ask the customer again. [Manager] hands out the
// access tokens, refreshes each once, loses no refresh token, and tells nobody to reconnect because of an outage. What it
// shares with the other processes is in a [Store].
//
//	manager := grants.New(config, store, nil)
//	defer manager.Close(closing) // not with a ctx that a signal has ended by then
//
//	connection, err := manager.Connect(r, state, verifier) // a customer comes back from Apple's consent page
//	token, err := manager.Token(ctx, connection.Grant)     // before each use, or:
//	response, err := manager.Client(connection.Grant).Get(url)
//	err = manager.RefreshDue(ctx, 10*time.Minute)          // every minute: for the grants that nobody uses
//
// Where an error says [applebusiness.ActionReauthorize], and only there, the customer has to connect again; a Store's Dead
// lists those customers. Apple also sends an OAUTH_APP_GRANT notification when an organisation revokes a grant, but it does
// not say which organisation that was.
//
// # Which Store
//
// [MemoryStore] is for tests, and for a process that may forget all grants when it ends. [DirStore] is for one process that
// may not: it needs a folder and nothing else. Package pgxstore, a module of its own in grants/pgxstore, is for a fleet, on
// PostgreSQL. For another database implement [Store], and let package grantstest try it. DirStore and pgxstore keep the
// tokens in clear unless they are given an [AEAD].
//
// # How a grant is refreshed
//
// All callers in a process share one attempt. It loads the grant's row; if a sibling, which is another process with the
// same Store, has put a good token there, that is it. Otherwise the attempt waits for Limit, and takes a lease by a write to
// the row: where that fails a token could not be saved either, and nothing is sent. One request goes to Apple, while no
// connection to the database is held. The callers have the token as soon as it arrives. It is saved if the row's version is
// still the leased one, with as many tries as it takes. The lease only avoids double work. What decides is the version,
// which belongs to the token: a Save or a verdict about a token that is no longer the row's is dropped.
//
// # What can be lost
//
// Between Apple's response and the Save a refresh token exists in one process's memory alone, for milliseconds if the
// database works. A process that is killed then, or a response that is lost, may cost the grant: the next refresh is refused,
// with [applebusiness.Error.ResponseLost] set. All else heals: a database that fails, a failover to a copy that lacks the
// last commits, processes that come and go. End a process with [Manager.Close].
//
// # Numbers to plan with
//
// A token request refreshes one grant, and an access token lives 3,600 seconds. At the 15 requests a second that Apple
// [publishes], 15 × 3,600 = 54,000 grants can have a valid token all the time; at 12 a second, which leaves a margin, 43,200.
// A RefreshDue with a within of ten minutes refreshes each after 50 minutes, so that it keeps 45,000 or 36,000 warm.
//
// If you have more, refresh a grant when it is used, and let RefreshDue keep alive what nobody uses, by a negative within:
// RefreshDue(ctx, -23*time.Hour) refreshes a grant when its token expired 23 hours ago, which is once a day. For 200,000
// grants that is 2.3 requests a second. The first caller of such a grant waits for a refresh. How long an unused refresh
// token lives is not documented: once a day is a careful guess.
//
// Nor does Apple document what it counts: its 15 requests a second may include the calls of its API. Then ask Wait of what
// is in [Options.Limit] before each of those, too. In its API Integration environment Apple [expects] fewer than one
// response with a 4xx status an hour: let no test send there what is bound to be refused.
//
// A Manager takes about 550 bytes of memory for each grant used within the last hour, beside a Store in memory. PostgreSQL
// takes about 450 bytes of disk for a grant with tokens of 64 characters, indexes included, and more until autovacuum has
// removed what was updated; it finds the first thousand of a million grants that are due in 4 milliseconds. A DirStore has
// all grants in memory, and each refresh changes a file twice. To measure these:
//
//	go test -run '^$' -bench 'Memory|DirStore' ./grants
//	cd grants/pgxstore && ./postgres.sh go test -run '^$' -bench MillionGrants .
//
// # How to import grants
//
// Grants that another program has kept come in by [Manager.Put], with the refresh token alone, which counts as expiring now.
// It is refreshed at its first use or by the next RefreshDue; if the within of that is negative, give the token an Expiry
// further back. At 12 requests a second 100,000 grants take 2.3 hours; those that a caller waits for come first. Stop the
// other program before: where Apple replaces refresh tokens, the two would invalidate each other's. Do not use a Store's own
// Put: for it a token without an Expiry never expires, and is never due.
//
// # What to alarm on
//
// [Options.OnRefresh] and [Refresh.Label] make a metric, and [Options.Logger] is told at level Error what an operator
// has to know. Errors of [Manager.Connect] are not told to OnRefresh: count them by [applebusiness.Label]. Alarm on
//
//   - an error whose advice has [applebusiness.ImpactApp], which affects all customers: "invalid_credentials" (the client
//     secret was replaced, which ends the old one at once: see [Options.ClientSecret]), "many_refusals" (so many refresh
//     tokens are refused that none is taken for revoked), "rate_limited" and others. Meanwhile the Manager holds requests
//     back, whose label is "held", and nobody has to reconnect. One is sent now and then, every 30 seconds at least unless
//     Apple asks for a longer wait, so that all goes on by itself once the cause is mended;
//   - [Refresh.Unsaved] without the Logger's "tokens can be stored again" within a minute: the newest refresh tokens are in
//     this process's memory alone, so mend the database, and do not kill the process;
//   - "store": the database fails, or the Limit;
//   - "other": [Options.ClientSecret] fails;
//   - "undocumented": an OAuth error that Apple's table does not list, so that Apple's page may have changed;
//   - more "invalid_refresh_token" than customers usually disconnect;
//   - an error of [Manager.RefreshDue], or grants that Due still returns long after they have expired: more come due than
//     Limit allows;
//   - an error of [Manager.Close]: it names the grants that are lost unless Close is called again.
//
// # Traps
//
// For whoever keeps grants without this package:
//
//   - A row lock or an advisory lock that is held while Apple answers. A pooler, a restart of the database or a full disk
//     then leaves a refresh token that is spent, and a successor that is stored nowhere.
//   - A first write that comes after Apple's response. You learn that the database is read-only after the token is spent.
//   - Leases timed by local clocks: with skew, two processes hold the same one.
//   - A token, or a verdict about one, that is written over a newer token. Compare the version of the token that was sent.
//   - A customer who is marked disconnected on any failed refresh. One outage then disconnects everybody, and so does a
//     client secret that was replaced.
//   - An HTTP client that sends a request again by itself. The second brings a refresh token that the first has spent, and
//     its refusal looks like a customer who has disconnected.
//   - A response without a refresh_token that replaces the whole stored token. The old refresh token is still good: keep it.
//
// [publishes]: https://business.apple.com/docs/onboarding-guide/core-concepts/integration-params
// [expects]: https://business.apple.com/docs/onboarding-guide/api-integration/overview
package grants
