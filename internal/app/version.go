package app

import (
	"fmt"
	"runtime/debug"
)

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println(version())
	return nil
}

// version is the module's version and revision as the build knows them.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "flashgate (unknown)"
	}
	v := "flashgate " + info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v += " " + s.Value
		}
	}
	return v + " " + info.GoVersion
}
