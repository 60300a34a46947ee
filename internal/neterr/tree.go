package neterr

import (
	"reflect"
	"slices"
)

// maxNodes bounds the work on one tree: an error that unwraps to itself has no end.
const maxNodes = 10_000

// Tree returns err and each error in its tree, in the order of errors.Is, and 10,000 at most. It leaves out nil pointers, and
// errors with a method Foreign with what they wrap. A panic of an Unwrap method ends its branch.
func Tree(err error) []error { return appendTree(nil, err, false) }

func appendTree(nodes []error, err error, withForeign bool) []error {
	value := reflect.ValueOf(err)
	_, isForeign := err.(interface{ Foreign() })
	isNil := err == nil || value.Kind() == reflect.Pointer && value.IsNil()
	if isNil || isForeign && !withForeign || len(nodes) == maxNodes {
		return nodes
	}
	nodes = append(nodes, err)
	for _, wrapped := range unwrap(err) {
		nodes = appendTree(nodes, wrapped, withForeign)
	}
	return nodes
}

// unwrap returns what err wraps, which may hold a nil.
func unwrap(err error) []error {
	defer func() { _ = recover() }() // foreign code, which may not expect to be asked
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		return []error{wrapper.Unwrap()}
	case interface{ Unwrap() []error }:
		return wrapper.Unwrap()
	}
	return nil
}

// Is is errors.Is by way of Tree. A panic of an Is method counts as false.
func Is(err, target error) bool {
	return slices.ContainsFunc(Tree(err), func(node error) (same bool) {
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
	return slices.ContainsFunc(Tree(err), func(node error) (found bool) {
		defer func() { _ = recover() }() // a *url.Error asks what it wraps, which may be a nil pointer
		timeout, ok := node.(interface{ Timeout() bool })
		return ok && timeout.Timeout()
	})
}

// Text returns err's text, and "" for nil and for one whose Error method panics, as a zero *oauth2.RetrieveError's does. Of a tree in
// which errors are joined again and again, whose text doubles at each level, it is the text of the first error at an end.
func Text(err error) (text string) {
	defer func() { _ = recover() }()    // for nil, too
	nodes := appendTree(nil, err, true) // texts of foreign errors double, too
	if len(nodes) < maxNodes {
		return err.Error()
	}
	for _, node := range nodes {
		if wrapped := unwrap(node); len(wrapped) == 0 || wrapped[0] == nil {
			return node.Error()
		}
	}
	return ""
}
