//go:build tools

// Package prometheusoperator pins the definition of PodMonitor, a file of its module, with which a test validates the chart's own.
package prometheusoperator
