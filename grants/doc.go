// Package grants keeps the grants of a partner's customers alive, in one process or in a fleet of them.
//
// A grant is what a customer gave at Apple's consent page: an access token that lives an hour, and a refresh token that
// may be replaced each time it is used. Whoever loses the newest refresh token has to ask the customer again. [Manager]
// hands out the access tokens and sees to it that each is refreshed once, that no refresh token is lost, and that nobody
// is told to reconnect because of an outage. What it has to share with the other processes is in a [Store]: package
// pgxstore keeps it in PostgreSQL, [MemoryStore] in memory, and grantstest tries the one that you write for another
// database.
//
//	manager := grants.New(config, store, nil)
//	defer manager.Close(ctx)
//
//	connection, err := manager.Connect(r, state, verifier) // a customer comes back from Apple's consent page
//	token, err := manager.Token(ctx, connection.Grant)     // before each use, or:
//	response, err := manager.Client(connection.Grant).Get(url)
//	err = manager.RefreshDue(ctx, 10*time.Minute)          // every minute: for the grants that nobody uses
//
// Where an error says [applebusiness.ActionReauthorize], and only there, the customer has to connect again.
//
// # How a grant is refreshed
//
// All callers in a process share one attempt. It loads the grant's row; if a sibling has put a good token there, that is
// it. Otherwise it waits for Limit, and takes a lease by a write to the row: a database that cannot write now could not
// save the next refresh token either, and nothing is sent. Then one request goes to Apple, while no connection to the
// database is held. The callers have the token as soon as it arrives; it is saved under the condition that the row's
// version is still the one that was leased, for as long as it takes.
//
// The lease only avoids double work. What decides is the version, which belongs to the token: a Save or a verdict about a
// token that is no longer the row's is dropped.
//
// # What can be lost
//
// Between Apple's response and the Save a refresh token exists in one process's memory alone, for milliseconds if the
// database works. A process that is killed in that time, or a response that is lost on its way, may cost the grant; the
// next refresh is then refused, and its error has [applebusiness.Error.ResponseLost] set. Everything else heals: a
// database that fails, a failover to a copy that lacks the last commits, processes that are started and stopped. End a
// process with [Manager.Close].
package grants
