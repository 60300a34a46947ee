package neterr

import (
	"reflect"
	"slices"
	"strings"
)

// maxNodes bounds the work on one tree: an error that unwraps to itself has no end.
const maxNodes = 10_000

// Visit calls f for err and each error in its tree, in the order of errors.Is, until f returns true, and for 10,000 at
// most. It skips nil pointers and errors with a method Foreign, whatever they wrap, and a panic of an Unwrap method ends
// its branch.
func Visit(err error, f func(error) bool) bool {
	left := maxNodes
	return visit(err, f, isForeign, &left)
}

func visit(err error, f, skip func(error) bool, left *int) bool {
	for err != nil && *left > 0 && !isNilPointer(err) && !skip(err) {
		*left--
		if f(err) {
			return true
		}
		several, next := unwrap(err)
		for _, err := range several {
			if visit(err, f, skip, left) {
				return true
			}
		}
		err = next
	}
	return false
}

func isForeign(err error) bool {
	_, foreign := err.(interface{ Foreign() })
	return foreign
}

func isNilPointer(err error) bool {
	value := reflect.ValueOf(err)
	return value.Kind() == reflect.Pointer && value.IsNil()
}

// unwrap returns what err wraps: several errors, or one.
func unwrap(err error) (several []error, next error) {
	defer func() { _ = recover() }() // foreign code, which may not expect to be asked
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		next = wrapper.Unwrap()
	case interface{ Unwrap() []error }:
		several = wrapper.Unwrap()
	}
	return several, next
}

// Is is errors.Is by way of Visit. A panic of an Is method counts as false.
func Is(err, target error) bool {
	return Visit(err, func(node error) (same bool) {
		defer func() { _ = recover() }()
		if node == target { // panics for two structs that cannot be compared
			return true
		}
		matcher, ok := node.(interface{ Is(error) bool })
		return ok && matcher.Is(target)
	})
}

// Timeout reports whether an error in err's tree is about something that took too long.
func Timeout(err error) bool {
	return Visit(err, func(node error) (found bool) {
		defer func() { _ = recover() }() // a *url.Error asks what it wraps, which may be a nil pointer
		timeout, ok := node.(interface{ Timeout() bool })
		return ok && timeout.Timeout()
	})
}

// Text returns err's text, and "" for one whose Error method panics, as a zero *oauth2.RetrieveError's does. Of a tree in
// which errors are joined again and again, whose text doubles at each level, it is the texts of the errors at its ends.
func Text(err error) (text string) {
	defer func() { _ = recover() }()
	if err == nil {
		return ""
	}
	left := maxNodes
	if visit(err, func(error) bool { return false }, isNilPointer, &left); left > 0 { // texts of foreign errors double, too
		return err.Error()
	}
	var ends []string
	left = maxNodes
	visit(err, func(node error) bool {
		if several, next := unwrap(node); next == nil && several == nil {
			ends = append(ends, Text(node))
		}
		return len(ends) == 100
	}, isNilPointer, &left)
	return strings.Join(slices.Compact(ends), "\n")
}
