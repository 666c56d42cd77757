{{/* Labels of an object. Takes (dict "root" $ "component" NAME). */}}
{{- define "pointsman.labels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "pointsman" }}
{{- $selected := include "pointsman.selector" .component | fromYaml }}
{{- mergeOverwrite (dict) (.root.Values.commonLabels | default dict) $labels $selected | toYaml }}
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
{{- mergeOverwrite (dict) (.root.Values.commonLabels | default dict) $extra $own $selected | toYaml }}
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

{{/* Something, if a text is an IPv4 address, an IPv6 address (in brackets or not) or a DNS name; else nothing. */}}
{{- define "pointsman.isHost" -}}
{{- $bare := regexReplaceAll `^\[(.*:.*)\]$` . "${1}" }}
{{- if contains ":" $bare }}
{{- $groups := regexReplaceAll `:([0-9]{1,3}\.){3}[0-9]{1,3}$` $bare ":0:0" }}
{{- $count := regexFindAll `[0-9a-fA-F]+` $groups -1 | len }}
{{- $some := `([0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4})*)?` }}
{{- if contains "::" $groups | ternary (and (le $count 7) (regexMatch (printf `^%s::%s$` $some $some) $groups)) (and (eq $count 8) (regexMatch (printf `^%s$` $some) $groups)) }}IPv6{{ end }}
{{- else if regexMatch `^[0-9.]+$` $bare }}
{{- if regexMatch `^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.|$)){4}$` $bare | and (not (hasSuffix "." $bare)) }}IPv4{{ end }}
{{- else if and (le (len $bare) 253) (regexMatch `^([a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?(\.|$))+$` $bare) }}name{{ end }}
{{- end }}

{{/* URL of the API server; an IPv6 address gets its brackets. */}}
{{- define "pointsman.server" -}}
{{- $host := .Values.apiServer.host | default "" | trimPrefix "[" | trimSuffix "]" }}
{{- printf "https://%s:%d" (contains ":" $host | ternary (printf "[%s]" $host) $host) (int .Values.apiServer.port) }}
{{- end }}

{{/* Options that say which API server, and as whom. */}}
{{- define "pointsman.access" -}}
- --in-cluster
- {{ printf "--server=%s" (include "pointsman.server" .) | quote }}
{{- end }}

{{/* Options of the log. Takes (dict "root" $ "component" NAME). */}}
{{- define "pointsman.logging" -}}
- {{ printf "--log-format=%s" .root.Values.logFormat | quote }}
{{- if (index .root.Values .component).verbose }}
- --verbose
{{- end }}
{{- end }}

{{/* Where an agent's metrics answer: on loopback, unless somebody is to scrape them. */}}
{{- define "pointsman.metricsAddress" -}}
{{- $host := .Values.metrics.bindAddress | default "" | trimPrefix "[" | trimSuffix "]" }}
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
