{{- define "name" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* The flags of `serve` as environment variables. */ -}}
{{- define "env" -}}
{{- if not (or .Values.preset .Values.headless .Values.nodes) }}
{{- fail "name the cluster to route to: set preset, headless or nodes" }}
{{- end }}
{{- if and (not .Values.tls.enabled) (or .Values.tls.caSecret .Values.tls.serverName) }}
{{- fail "tls.caSecret and tls.serverName are for TLS to the nodes: set tls.enabled" }}
{{- end }}
{{- if not (hasKey .Values.env "QDRANT_ROUTER_LISTEN_ADMIN") }}
{{- /* Probes and Prometheus come from outside the pod; the NetworkPolicy keeps others out. */}}
QDRANT_ROUTER_LISTEN_ADMIN: 0.0.0.0:9633
{{- end }}
{{- if not (hasKey .Values.env "QDRANT_ROUTER_MAX_HELD_BYTES") }}
{{- /* Half of the memory limit: what is cut or decoded takes as much again. */}}
QDRANT_ROUTER_MAX_HELD_BYTES: 512MiB
{{- end }}
{{- with .Values.preset }}
QDRANT_ROUTER_PRESET: {{ . | quote }}
{{- end }}
{{- with .Values.headless }}
QDRANT_ROUTER_HEADLESS: {{ . | quote }}
{{- end }}
{{- with .Values.nodes }}
QDRANT_ROUTER_NODE: {{ join "," . | quote }}
{{- end }}
{{- with .Values.fallback }}
QDRANT_ROUTER_FALLBACK: {{ . | quote }}
{{- end }}
{{- if .Values.apiKey.secret }}
QDRANT_ROUTER_API_KEY_FILE: /etc/qdrant-router/api-key
{{- end }}
{{- if .Values.tls.enabled }}
QDRANT_ROUTER_UPSTREAM_TLS: "true"
{{- if .Values.tls.caSecret }}
QDRANT_ROUTER_UPSTREAM_CA_FILE: /etc/qdrant-router/ca.crt
{{- end }}
{{- with .Values.tls.serverName }}
QDRANT_ROUTER_UPSTREAM_SERVER_NAME: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.env }}
{{- /* Helm reads integers as floats, and would write large ones as 3.3e+07. */}}
{{ $name }}: {{ kindIs "float64" $value | ternary (int64 $value) $value | quote }}
{{- end }}
{{- end }}

{{- /* A duration as the program reads it, such as 30s, in seconds. */ -}}
{{- define "seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int }}
{{- get (dict "ms" (div (add $number 999) 1000) "s" $number "m" (mul $number 60) "h" (mul $number 3600)) (regexFind "[a-z]+$" .) }}
{{- end }}

{{- /* How long the kubelet waits for a router to end. */ -}}
{{- define "grace" -}}
{{- $delay := get .Values.env "QDRANT_ROUTER_SHUTDOWN_DELAY" | default "5s" | toString }}
{{- $drain := get .Values.env "QDRANT_ROUTER_DRAIN_TIMEOUT" | default "30s" | toString }}
{{- $grace := int .Values.terminationGracePeriodSeconds }}
{{- if le $grace (add (include "seconds" $delay) (include "seconds" $drain) | int) }}
{{- fail (printf "terminationGracePeriodSeconds is %v, and a router takes %s (QDRANT_ROUTER_SHUTDOWN_DELAY) and %s (QDRANT_ROUTER_DRAIN_TIMEOUT) to stop: raise it" $grace $delay $drain) }}
{{- end }}
{{- $grace }}
{{- end }}

{{- /* The Secrets whose files are mounted, as sources of a projected volume. */ -}}
{{- define "secrets" -}}
{{- with .Values.apiKey }}
{{- if .secret }}
- secret:
    name: {{ .secret }}
    items:
      - { key: {{ .key }}, path: api-key }
{{- end }}
{{- end }}
{{- with .Values.tls }}
{{- if and .enabled .caSecret }}
- secret:
    name: {{ .caSecret }}
    items:
      - { key: {{ .caKey }}, path: ca.crt }
{{- end }}
{{- end }}
{{- end }}
