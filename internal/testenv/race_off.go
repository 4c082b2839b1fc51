//go:build !race

package testenv

// raceArgs builds the product like the test that starts it.
var raceArgs []string

// raceSlowdown stretches Patience.
const raceSlowdown = 1
