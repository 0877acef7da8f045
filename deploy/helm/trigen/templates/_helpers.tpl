{{- define "trigen.name" -}}
{{- if contains "trigen" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-trigen{{ end }}
{{- end }}

{{- define "trigen.selector" -}}
app.kubernetes.io/name: trigen
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "trigen.labels" -}}
{{ include "trigen.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "trigen.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "trigen.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "trigen.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{- /* What the service and the command that fetches its models have in common. */}}
{{- define "trigen.container" -}}
image: {{ include "trigen.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "trigen.mounts" -}}
- name: models
  mountPath: /models
- name: tmp
  mountPath: /tmp
{{- end }}
