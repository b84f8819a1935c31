{{/* The name of nearly everything: the release's, with ours in it. */}}
{{- define "agent.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "agent.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "agent.name" .) -}}
{{- end -}}

{{- define "agent.selector" -}}
app.kubernetes.io/name: ingress-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "agent.labels" -}}
{{ include "agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* Cluster-wide objects carry the namespace, so that two releases of one name don't meet. */}}
{{- define "agent.clusterName" -}}
{{- if eq .Release.Namespace (include "agent.name" .) -}}
{{- include "agent.name" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "agent.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* JSON: the namespaces that are read; none stands for all. The agent's own is among them, as its Service's slices are there. */}}
{{- define "agent.namespaces" -}}
{{- if .Values.watch.namespaces -}}
{{- append .Values.watch.namespaces .Release.Namespace | uniq | sortAlpha | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* What the agent reads in each namespace. */}}
{{- define "agent.readRules" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [secrets]
  {{- if eq .Values.watch.secrets "referenced" }}
  verbs: [get]
  {{- else }}
  verbs: [get, list, watch]
  {{- end }}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
{{- end -}}

{{/* What it writes there. */}}
{{- define "agent.writeRules" -}}
{{- if .Values.publish.enabled }}
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [patch]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* The settings file. What is in .Values.settings wins. */}}
{{- define "agent.settings" -}}
{{- $root := .Values.user | int | eq 0 -}}
{{- $settings := dict
  "http" (.Values.listen.http | default (list "off"))
  "https" (.Values.listen.https | default (list "off"))
  "admin" .Values.listen.admin
  "controllers" (prepend .Values.extraControllers .Values.ingressClass.controller)
  "ingress-class" .Values.ingressClass.name
  "secrets" .Values.watch.secrets
  "kernel" .Values.kernel.mode
  "kernel-steering" .Values.kernel.steering
  "kernel-rejection" .Values.kernel.rejection
  "kernel-accounting" (.Values.kernel.accounting | default "auto")
  "drain-timeout" (printf "%ds" (int .Values.drainTimeoutSeconds))
  "agent-service" (printf "%s/%s" .Release.Namespace (include "agent.name" .)) -}}
{{- with include "agent.namespaces" . | fromJsonArray }}{{ $_ := set $settings "watch-namespaces" . }}{{ end -}}
{{- with .Values.watch.ingressSelector }}{{ $_ := set $settings "ingress-selector" . }}{{ end -}}
{{- /* Said where they are false alone: merge takes a false of .Values.settings for nothing. With --reuse-values an older release has none. */}}
{{- range $name, $wanted := .Values.headers | default dict }}
{{- if not $wanted }}{{ $_ := set $settings (printf "%s-header" $name) false }}{{ end -}}
{{- end -}}
{{- with .Values.kernel.interfaces }}{{ $_ := set $settings "kernel-interfaces" . }}{{ end -}}
{{- if not .Values.publish.enabled }}{{ $_ := unset $settings "agent-service" }}
{{- else if .Values.publish.addresses }}{{ $_ := set $settings "publish-address" .Values.publish.addresses }}
{{- else if .Values.publish.service }}{{ $_ := set $settings "publish-service" .Values.publish.service }}
{{- else }}{{ $_ := set $settings "publish-node-address" .Values.publish.nodeAddress }}{{ end -}}
{{- if and .Values.state.enabled $root }}{{ $_ := set $settings "state-dir" "/var/lib/ingress-agent" }}{{ end -}}
{{- merge (deepCopy .Values.settings) $settings | toYaml -}}
{{- end -}}

{{/* Mistakes that would show only on the nodes. */}}
{{- define "agent.checkValues" -}}
{{- if and .Values.podMonitor.enabled (regexMatch "^(off|127\\.|localhost|\\[::1\\])" .Values.listen.admin) -}}
{{- fail "podMonitor.enabled: Prometheus can't reach listen.admin; set it to an address of the node, such as \":9090\", and keep that from the public" -}}
{{- end -}}
{{- if ne (int .Values.user) 0 -}}
{{- if ne .Values.kernel.mode "off" -}}{{- fail "user: only root can be given the capabilities of the kernel side; set kernel.mode to off" -}}{{- end -}}
{{- range concat .Values.listen.http .Values.listen.https -}}
{{- if lt (regexFind "[0-9]+$" . | int) 1024 -}}{{- fail (printf "user: only root can listen on %s; ports from 1024 up are for everybody" .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
