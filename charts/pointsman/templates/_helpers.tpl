{{/* Labels of an object. Takes (dict "root" $ "component" NAME). */}}
{{- define "pointsman.labels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "pointsman" }}
{{- $selected := include "pointsman.selector" .component | fromYaml }}
{{- mergeOverwrite (dict) .root.Values.commonLabels $labels $selected | toYaml }}
{{- end }}

{{/* Labels that select the Pods of a component. Takes its name. */}}
{{- define "pointsman.selector" -}}
app.kubernetes.io/name: pointsman
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/*
Labels of the Pods of a component: without versions, as a new chart alone is no reason to replace Pods.
Takes (dict "root" $ "component" NAME).
*/}}
{{- define "pointsman.podLabels" -}}
{{- $extra := (index .root.Values .component | default dict).podLabels | default dict }}
{{- $own := dict "app.kubernetes.io/instance" .root.Release.Name "app.kubernetes.io/part-of" "pointsman" }}
{{- $selected := include "pointsman.selector" .component | fromYaml }}
{{- mergeOverwrite (dict) .root.Values.commonLabels $extra $own $selected | toYaml }}
{{- end }}

{{- define "pointsman.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pointsman.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* URL of the API server; an IPv6 address gets its brackets. */}}
{{- define "pointsman.server" -}}
{{- $host := .Values.apiServer.host | trimPrefix "[" | trimSuffix "]" }}
{{- printf "https://%s:%d" (contains ":" $host | ternary (printf "[%s]" $host) $host) (int .Values.apiServer.port) }}
{{- end }}

{{/* Options that say which API server, and as whom. */}}
{{- define "pointsman.access" -}}
- --in-cluster
- --server={{ include "pointsman.server" . }}
{{- end }}

{{/* Options of the log. Takes (dict "root" $ "component" NAME). */}}
{{- define "pointsman.logging" -}}
- --log-format={{ .root.Values.logFormat }}
{{- if (index .root.Values .component).verbose }}
- --verbose
{{- end }}
{{- end }}

{{/* Where an agent's metrics answer: on loopback, unless somebody is to scrape them. */}}
{{- define "pointsman.metricsAddress" -}}
{{- $host := .Values.metrics.bindAddress | trimPrefix "[" | trimSuffix "]" }}
{{- if and (not $host) (not .Values.metrics.serviceMonitor.enabled) }}
{{- $host = "127.0.0.1" }}
{{- end }}
{{- printf "%s:%d" (contains ":" $host | ternary (printf "[%s]" $host) $host) (int .Values.metrics.port) }}
{{- end }}

{{/* securityContext of a container that needs no right at all. */}}
{{- define "pointsman.unprivileged" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}
