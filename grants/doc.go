// Package grants keeps all grants of a partner alive, in a fleet of processes.
package grants
