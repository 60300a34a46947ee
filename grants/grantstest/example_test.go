package grantstest_test

import (
	"fmt"

	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/grantstest"
)

// Every sentence of the contract is tried on a Store, here on the one in memory.
func ExampleTestStore() {
	fmt.Println(grantstest.TestStore(grants.NewMemoryStore()))
	// Output: <nil>
}
