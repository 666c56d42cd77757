{{/*
ServiceAccount, roles and bindings of a component, from files/permissions.yaml.
Takes (dict "root" $ "component" NAME "annotations" MAPPING).
*/}}
{{- define "pointsman.account" -}}
{{- $name := printf "pointsman-%s" .component }}
{{- $rules := index (.root.Files.Get "files/permissions.yaml" | fromYaml) .component }}
{{- $labels := include "pointsman.labels" . }}
{{- $namespace := .root.Release.Namespace }}
{{- $annotations := .annotations }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ $namespace }}
  labels:
    {{- $labels | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- range $kind, $rules := dict "ClusterRole" $rules.cluster "Role" $rules.namespaced }}
{{- if $rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- if eq $kind "Role" }}
  namespace: {{ $namespace }}
  {{- end }}
  labels:
    {{- $labels | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
rules:
  {{- toYaml $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- if eq $kind "Role" }}
  namespace: {{ $namespace }}
  {{- end }}
  labels:
    {{- $labels | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $name }}
    namespace: {{ $namespace }}
{{- end }}
{{- end }}
{{- end }}
