package grants_test

import "runtime"

func goexit() { runtime.Goexit() }
