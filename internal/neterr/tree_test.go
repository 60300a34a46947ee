package neterr

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
)

// panicking is foreign code at its worst.
type panicking struct{}

func (panicking) Error() string { panic("Error") }
func (panicking) Is(error) bool { panic("Is") }
func (panicking) Unwrap() error { panic("Unwrap") }
func (panicking) Timeout() bool { panic("Timeout") }

// incomparable makes == panic.
type incomparable struct{ list []int }

func (incomparable) Error() string { return "incomparable" }

// foreign is somebody else's failure.
type foreign struct{ error }

func (f foreign) Unwrap() error { return f.error }
func (foreign) Foreign()        {}

// endless unwraps to itself.
type endless struct{ text string }

func (e endless) Error() string { return e.text }
func (e endless) Unwrap() error { return e }

type pair struct{ a, b error }

func (p pair) Error() string   { return p.a.Error() + "\n" + p.b.Error() }
func (p pair) Unwrap() []error { return []error{p.a, p.b} }

func TestForeignCodeIsSurvived(t *testing.T) {
	for _, err := range []error{
		nil, panicking{}, &panicking{}, (*panicking)(nil), (*net.OpError)(nil), (*url.Error)(nil), incomparable{}, &url.Error{Op: "Post", Err: (*net.OpError)(nil)},
		errors.Join(panicking{}, (*net.DNSError)(nil)), struct{ *net.OpError }{}, endless{"x"}, errors.Join(endless{"x"}, endless{"y"}),
	} {
		assert.NotPanics(t, func() {
			Of(err)
			assert.False(t, Is(err, io.EOF))
			assert.False(t, Is(err, incomparable{[]int{1}}))
			assert.False(t, Timeout(err))
			Text(err)
		}, "%T", err)
	}
	for _, err := range []error{panicking{}, (*panicking)(nil), (*net.OpError)(nil), incomparable{}, foreign{io.EOF}} {
		assert.True(t, Is(errors.Join(err, io.ErrClosedPipe), io.ErrClosedPipe), "%T hides what stands beside it", err)
		assert.True(t, Timeout(pair{err, context.DeadlineExceeded}), "%T hides what stands beside it", err)
	}
	assert.Equal(t, "", Text(panicking{}))
	assert.False(t, Is(foreign{io.EOF}, io.EOF))
}

// An error that is joined with itself forty times over has a million million nodes.
func TestJoinedTreesAreBounded(t *testing.T) {
	pointers, values := io.EOF, error(endOfValues{})
	for range 40 {
		pointers, values = &pair{pointers, pointers}, pair{values, values}
	}
	assert.Len(t, Tree(pointers), maxNodes)
	assert.Equal(t, "EOF", Text(pointers))
	assert.True(t, Is(pointers, io.EOF))
	assert.False(t, Is(pointers, io.ErrUnexpectedEOF))

	assert.LessOrEqual(t, len(Tree(values)), maxNodes)
	assert.LessOrEqual(t, len(Text(values)), 1000)
	Of(values)
	assert.False(t, Timeout(values))

	assert.Equal(t, "EOF", Text(foreign{pointers}), "its text doubles, too")

	several := errors.Join(io.EOF, io.ErrClosedPipe)
	assert.Equal(t, several.Error(), Text(several))
}

type endOfValues struct{}

func (endOfValues) Error() string { return "end" }
