{{/*
A hook: a Job that runs one command of pointsman on the host's network, wherever there is a node, and its account.
It works before there is a Service proxy, a CNI plugin or a node without taints.
Takes (dict "root" $ "component" NAME "hook" EVENTS "args" LIST "retries" NUMBER).
*/}}
{{- define "pointsman.hook" -}}
{{- $policy := "before-hook-creation,hook-succeeded" }}
{{- $before := dict "helm.sh/hook" .hook "helm.sh/hook-weight" "-10" "helm.sh/hook-delete-policy" $policy }}
{{- $values := .root.Values }}
{{- include "pointsman.account" (merge (dict "annotations" $before) .) }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: pointsman-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "pointsman.labels" . | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-weight: "0"
    helm.sh/hook-delete-policy: {{ $policy }}
spec:
  backoffLimit: {{ .retries }}
  activeDeadlineSeconds: {{ add $values.hooks.timeoutSeconds 30 }}
  template:
    metadata:
      labels:
        {{- include "pointsman.podLabels" . | nindent 8 }}
    spec:
      serviceAccountName: pointsman-{{ .component }}
      automountServiceAccountToken: true
      {{- with include "pointsman.pullSecrets" .root }}
      {{- . | nindent 6 }}
      {{- end }}
      restartPolicy: Never
      hostNetwork: true
      dnsPolicy: Default
      priorityClassName: system-cluster-critical
      nodeSelector:
        kubernetes.io/os: linux
      tolerations:
        - operator: Exists
      containers:
        - name: {{ .component }}
          image: {{ include "pointsman.image" .root }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args:
            {{- toYaml .args | nindent 12 }}
            {{- include "pointsman.access" .root | nindent 12 }}
          securityContext:
            {{- include "pointsman.unprivileged" . | nindent 12 }}
          {{- with $values.hooks.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
{{- end }}
