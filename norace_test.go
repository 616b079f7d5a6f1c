//go:build !race

package foyer

const raceDetector = false
