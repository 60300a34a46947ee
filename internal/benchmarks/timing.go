package main

import (
	"cmp"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// Many short runs: neighbours in a round then have much the same machine.
const (
	rounds    = 300
	benchtime = "5ms"
)

// timing is what a contender took, a value for each round.
type timing struct {
	name              string
	ns, bytes, allocs []float64
	nsAllCores        []float64 // of measureParallel
}

// measure runs the contenders in rounds, each of them once in each round and in another order every time, so that what
// else the machine does hits all alike.
func measure(contenders []contender) []timing {
	timings := make([]timing, len(contenders))
	for range rounds {
		for _, i := range rand.Perm(len(contenders)) {
			run := contenders[i].run
			result := testing.Benchmark(func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					run()
				}
			})
			t := &timings[i]
			t.name = contenders[i].name
			t.ns = append(t.ns, nsPerOp(result))
			t.bytes = append(t.bytes, float64(result.AllocedBytesPerOp()))
			t.allocs = append(t.allocs, float64(result.AllocsPerOp()))
		}
	}
	return timings
}

// arithmetic shares nothing, so that it shows by how much the machine itself is faster on all its cores.
var arithmetic = contender{"arithmetic alone", func() bool {
	sum := uint64(1)
	for i := range uint64(1000) {
		sum = sum*31 + i
	}
	return sum != 0
}}

// measureParallel is measure on one core, and on all of them for nsAllCores.
func measureParallel(contenders []contender) []timing {
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	timings := make([]timing, len(contenders))
	for range rounds {
		for _, i := range rand.Perm(len(contenders)) {
			run := contenders[i].run
			parallel := func(b *testing.B) {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						run()
					}
				})
			}
			t := &timings[i]
			t.name = contenders[i].name
			runtime.GOMAXPROCS(1)
			t.ns = append(t.ns, nsPerOp(testing.Benchmark(parallel)))
			runtime.GOMAXPROCS(cores)
			t.nsAllCores = append(t.nsAllCores, nsPerOp(testing.Benchmark(parallel)))
		}
	}
	return timings
}

func nsPerOp(result testing.BenchmarkResult) float64 {
	return float64(result.T.Nanoseconds()) / float64(result.N)
}

// ratio is the median of the rounds' ratios of a to b: within a round both had much the same machine.
func ratio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

func fastest(timings []timing) timing {
	return slices.MinFunc(timings, func(a, b timing) int { return cmp.Compare(median(a.ns), median(b.ns)) })
}
