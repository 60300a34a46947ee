package grants

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// What a Store or a Manager returns; each is found by errors.Is.
var (
	// ErrNoGrant is returned for a grant that the Store does not hold.
	ErrNoGrant = errors.New("applebusiness/grants: no such grant")
	// ErrLeased is returned by [Store.Lease] while another holder's lease runs.
	ErrLeased = errors.New("applebusiness/grants: the grant is leased by another holder")
	// ErrConflict is returned by [Store.Save] and [Store.Mark] if the grant's version is another one by now.
	ErrConflict = errors.New("applebusiness/grants: the grant's token was replaced meanwhile")
	// ErrClosed is returned by a Manager after [Manager.Close].
	ErrClosed = errors.New("applebusiness/grants: the manager is closed")
)

// Record is what a Store holds of one grant. It is printed and logged without the token; its JSON holds it.
type Record struct {
	// Token is the grant's newest token. Its Expiry is by this process's clock: the Store converts it from its own. It is
	// kept when Dead is set.
	Token *oauth2.Token
	Mark
	// Version changes exactly when Token does. It never repeats for a grant's name: not after Delete and Put, and not
	// after a failover to an older copy, so a Store draws it at random.
	Version int64
}

// Format writes the version and the mark, and not the token, whatever the verb. It implements [fmt.Formatter].
func (r Record) Format(state fmt.State, verb rune) {
	fmt.Fprintf(state, fmt.FormatString(state, verb), r.text())
}

// LogValue returns the version and the mark, and not the token. It implements [slog.LogValuer].
func (r Record) LogValue() slog.Value { return slog.StringValue(r.text()) }

func (r Record) text() string {
	text := fmt.Sprintf("grants.Record{Token: ***, Version: %d", r.Version)
	if r.Dead != nil {
		text += ", Dead: " + r.Dead.Error()
	}
	if !r.RetryAt.IsZero() {
		text += ", RetryAt: " + r.RetryAt.Format(time.RFC3339)
	}
	if r.Unfinished {
		text += ", Unfinished"
	}
	return text + "}"
}

// Mark is what the fleet remembers about a grant's newest token, beside the token itself. The zero Mark says nothing.
type Mark struct {
	// Dead says why the customer has to reconnect; nil means that the grant is alive. A Store keeps its Endpoint,
	// StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.
	Dead *applebusiness.Error
	// RetryAt is when the next request may be sent, by this process's clock: the Store converts it as it does a token's
	// Expiry. No process of the fleet sends one before. The zero Time means that nobody has to wait.
	RetryAt time.Time
	// Unfinished says that a request was sent with this refresh token, and that its response, with the next refresh token
	// in it, may be lost.
	Unfinished bool
}

// Store keeps a partner's grants where every process of the fleet sees them.
//
// Each method takes effect at one instant, by one conditional write: in SQL, one statement. A read of what was written may
// follow it. All methods can be called concurrently, by any number of processes. A method that fails for any reason but
// those named here returns another error, and may or may not have taken effect; it returns soon after its context ends.
//
// Time is the Store's: whether a lease has run out, a token expires or RetryAt has passed is decided by one clock, the
// database's where it has one. A Store computes a duration from a Token's Expiry when it writes and a time when it reads.
//
// The package grantstest tries each sentence of this contract on a Store.
type Store interface {
	// Load returns the grant's record as last written: from the primary, not from a replica. It returns ErrNoGrant if there
	// is none.
	Load(ctx context.Context, grant string) (Record, error)

	// Lease gives holder the grant for the duration d, and returns its record. It returns ErrLeased while another holder's
	// lease runs, and ErrNoGrant if there is no such grant. To the same holder it gives the lease again, from now on. It is
	// a write, even where nothing but the lease changes: where it fails, a Save would have failed too. A lease that does not
	// exclude lets two processes send one refresh token: the later one is refused, and its caller told to reconnect,
	// although the other one's Save heals the grant.
	//
	// A lease that has run out without Save, Mark or Release makes the record Unfinished, for Load as for Lease. It stays
	// so until a Save, a Put or a Mark.
	Lease(ctx context.Context, grant, holder string, d time.Duration) (Record, error)

	// Save stores token under a new version, removes the mark, and ends holder's lease, if the grant's version is still
	// version, whoever holds the lease. Otherwise, also if the grant was deleted, it returns ErrConflict and changes
	// nothing. It never makes a grant.
	Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error

	// Mark replaces the mark and ends holder's lease, if the grant's version is still version, whoever holds the lease.
	// Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing. Token and version stay.
	Mark(ctx context.Context, grant, holder string, version int64, mark Mark) error

	// Release ends holder's lease, and nobody else's. What Lease has found Unfinished stays so. It returns nil if holder
	// has no lease, or if there is no such grant.
	Release(ctx context.Context, grant, holder string) error

	// Put stores token under a new version, whatever was there: the grant is made if need be, and its mark and its lease
	// are gone.
	Put(ctx context.Context, grant string, token *oauth2.Token) error

	// Delete removes the grant. It returns nil if there is none.
	Delete(ctx context.Context, grant string) error

	// Due returns at most limit grants that are alive, not leased, whose RetryAt has passed, and whose token expires within
	// the given time, the soonest first. A negative within means tokens that expired at least that long ago. The list may be
	// stale, and read from a replica: it is a hint. A token without an Expiry is never due.
	Due(ctx context.Context, within time.Duration, limit int) ([]string, error)

	// Dead returns at most limit grants that have been dead for at least the duration since, the longest dead first, and by
	// name among those that died at the same instant. It begins with the first one that comes after the given one in this
	// order; the zero DeadGrant is before all. A grant stays in the list until it is put again, saved, deleted, or marked
	// without Dead. Since is when the verdict was marked, and is the same at each call; a Mark of a grant that is dead
	// already does not move it.
	Dead(ctx context.Context, since time.Duration, after DeadGrant, limit int) ([]DeadGrant, error)
}

// DeadGrant is a grant whose customer has to connect again. Grant and Version together are the key by which to remember
// whom one has told.
type DeadGrant struct {
	Grant   string
	Error   *applebusiness.Error // why, as far as a Store keeps it
	Since   time.Time            // by the Store's clock
	Version int64                // of the record
}

// AEAD encrypts what a Store keeps. It is what tink.AEAD of github.com/tink-crypto/tink-go and its clients of key services
// have. Both methods are called concurrently. associatedData is the grant's name and the version of its token, so that
// neither another grant's token nor an older one of the same grant opens in a row.
type AEAD interface {
	Encrypt(plaintext, associatedData []byte) ([]byte, error)
	Decrypt(ciphertext, associatedData []byte) ([]byte, error)
}
