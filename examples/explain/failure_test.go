package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// entry is an input of testdata/corpus.jsonl, with what the first version of this program said of it.
type entry struct {
	Name, Action string
	Now          string // what this one says, where it differs
	Input        string
}

func corpus(t testing.TB) (entries []entry) {
	data, err := os.ReadFile("testdata/corpus.jsonl")
	require.NoError(t, err)
	for line := range strings.SplitSeq(strings.TrimSpace(string(data)), "\n") {
		var e entry
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		entries = append(entries, e)
	}
	return entries
}

// actionOf is what the program says of an input: "nothing", or the action of the first failure in it.
func actionOf(input string) string {
	found, _ := understand(input)
	if len(found) == 0 {
		return "nothing"
	}
	return orUnknown(found[0].advice.Action)
}

func TestCorpus(t *testing.T) {
	different, entries := 0, corpus(t)
	for _, e := range entries {
		if got := actionOf(e.Input); got != strings.TrimSpace(e.Action) && !(got == "nothing" && e.Name == "nothing") {
			different++
			assert.NotEqual(t, "reauthorize", got, e.Input)
		}
	}
	assert.Less(t, different, len(entries)/15)
}
