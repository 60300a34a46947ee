package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// calm is the time before, between and after troubles.
const calm = 3500 * time.Millisecond

// trouble makes what trouble the options ask for, until ctx ends. What it begins it ends: the database works afterwards.
func (f *fleet) trouble(ctx context.Context) error {
	o := f.options
	end, _ := ctx.Deadline()
	var tasks sync.WaitGroup
	var mu sync.Mutex // guards errs
	var errs []error
	every := func(pause, lasts time.Duration, do func(ctx context.Context) error) {
		tasks.Go(func() {
			for sleep(ctx, pause) && (lasts == 0 || time.Until(end) > lasts+calm) {
				if err := do(ctx); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	second := 0
	every(time.Second, 0, func(context.Context) error {
		second++
		f.progress(second)
		return nil
	})
	if o.kill {
		every(2*time.Second, 0, f.killOne)
	}
	if o.freeze > 0 {
		every(calm, o.freeze, f.freezeHalf)
	}
	if o.restart > 0 {
		every(calm, o.restart, f.crashDatabase)
	}
	if o.restore > 0 {
		every(calm, o.restore+accessTokenLife, f.restoreBackup) // each process looks at each row once more
	}
	if o.terminate {
		every(50*time.Millisecond, 0, func(context.Context) error {
			_, _ = f.pool.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY random() LIMIT 1`) // it may be cut itself
			return nil
		})
	}
	if o.refuseWrites > 0 {
		every(calm, o.refuseWrites, f.refuseWrites)
	}
	if o.environment {
		every(o.duration/2, o.duration/4, f.rollBack) // not a second time, since no quarter is left then
	}
	tasks.Wait()
	return errors.Join(errs...)
}

// sleep reports whether d has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// killOne kills a worker, and starts another.
func (f *fleet) killOne(context.Context) error {
	f.mu.Lock()
	if len(f.running) == 0 {
		f.mu.Unlock()
		return errors.New("no worker is left")
	}
	p := f.running[rand.N(len(f.running))]
	p.killed = true
	f.kills++
	f.mu.Unlock()
	_ = p.command.Process.Kill() // it may have ended
	<-p.done
	_, err := f.start(0, f.config)
	return err
}

// freezeHalf stops half of the workers, and lets them go on.
func (f *fleet) freezeHalf(ctx context.Context) error {
	f.mu.Lock()
	half := slices.Clone(f.running[:(len(f.running)+1)/2])
	f.mu.Unlock()
	for _, p := range half {
		_ = p.command.Process.Signal(syscall.SIGSTOP) // it may have ended, here and below
	}
	sleep(ctx, f.options.freeze)
	for _, p := range half {
		_ = p.command.Process.Signal(syscall.SIGCONT)
	}
	return nil
}

// crashDatabase ends PostgreSQL as a crash does, and starts it again.
func (f *fleet) crashDatabase(ctx context.Context) error {
	f.database.Lock()
	defer f.database.Unlock()
	if err := f.control("-m", "immediate", "stop"); err != nil {
		return err
	}
	sleep(ctx, f.options.restart)
	return f.control("start")
}

// restoreBackup copies PostgreSQL's data folder, and puts the copy in its place later. Both times PostgreSQL is away for a moment.
func (f *fleet) restoreBackup(ctx context.Context) error {
	f.database.Lock()
	defer f.database.Unlock()
	var folder string
	err := f.retry(func() error { return f.pool.QueryRow(context.Background(), "SHOW data_directory").Scan(&folder) })
	if err != nil {
		return err
	}
	backup := filepath.Join(filepath.Dir(folder), "backup")
	if err := f.control("-m", "fast", "stop"); err != nil {
		return err
	}
	output, err := exec.Command("cp", "-a", folder, backup).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	if err := f.control("start"); err != nil {
		return err
	}
	sleep(ctx, f.options.restore)
	if err := f.control("-m", "immediate", "stop"); err != nil {
		return err
	}
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	if err := os.Rename(backup, folder); err != nil {
		return err
	}
	return f.control("start")
}

// control calls pg_ctl.
func (f *fleet) control(arguments ...string) error {
	output, err := exec.Command(f.options.postgresCtl, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// refuseWrites lets every transaction of the database be read-only for a while.
func (f *fleet) refuseWrites(ctx context.Context) error {
	if err := f.setReadOnly("on"); err != nil {
		return err
	}
	sleep(ctx, f.options.refuseWrites)
	return f.setReadOnly("off")
}

func (f *fleet) setReadOnly(setting string) error {
	for _, sql := range []string{"SET default_transaction_read_only = off", "ALTER SYSTEM SET default_transaction_read_only = " + setting, "SELECT pg_reload_conf()"} {
		err := f.retry(func() error {
			_, err := f.pool.Exec(context.Background(), sql)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// retry asks the database what another trouble may disturb.
func (f *fleet) retry(ask func() error) (err error) {
	for range 100 {
		if err = ask(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// rollBack ends the worker that has the wrong environment, and starts one that has the right one.
func (f *fleet) rollBack(context.Context) error {
	_ = f.wrong.stdin.Close()
	<-f.wrong.done
	_, err := f.start(0, f.config)
	return err
}
