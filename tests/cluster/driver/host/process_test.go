package host

import (
	"os/exec"
	"path/filepath"
	"testing"
)

func TestAProcessIsEndedByItsRecord(t *testing.T) {
	process := sleeper(t)
	if err := process.Record(filepath.Join(t.TempDir(), "sleeper.json")); err != nil {
		t.Fatal(err)
	}
	if !process.Alive() {
		t.Fatal("it does not run")
	}
	if err := process.Kill(); err != nil || process.Alive() {
		t.Fatalf("it still runs: %v", err)
	}
}

func TestAnotherProcessOfThatNumberIsLeftAlone(t *testing.T) {
	process := sleeper(t)
	earlier := process
	earlier.Start--
	lastBoot := process
	lastBoot.Boot = "another"
	for _, stranger := range []Process{earlier, lastBoot} {
		if err := stranger.Kill(); err != nil || !process.Alive() {
			t.Fatalf("%+v was taken for %+v: %v", process, stranger, err)
		}
	}
}

func TestRecordsAreReadBack(t *testing.T) {
	folder := t.TempDir()
	process := sleeper(t)
	if err := process.Record(filepath.Join(folder, "node0_kubelet.json")); err != nil {
		t.Fatal(err)
	}
	all, err := Recorded(folder)
	if err != nil || len(all) != 1 || all["node0_kubelet"] != process {
		t.Fatalf("%v, %v", all, err)
	}
}

func sleeper(t *testing.T) Process {
	t.Helper()
	command := exec.Command("sleep", "60")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	process, err := Identify(command.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return process
}
