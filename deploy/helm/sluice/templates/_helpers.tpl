{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The base of all names. Room is left for what is appended. */}}
{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "sluice.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.instance" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sluice.instance" -}}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What selects the proxies' pods. It can't be changed once a release is installed. */}}
{{- define "sluice.proxy.selector" -}}
{{ include "sluice.instance" . }}
app.kubernetes.io/component: proxy
{{- end -}}

{{- define "sluice.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that are read, as a list in JSON; empty for all. */}}
{{- define "sluice.namespaces" -}}
{{- $namespaces := .Values.watchNamespaces -}}
{{- if and $namespaces .Values.config -}}
{{- $namespaces = append $namespaces .Release.Namespace -}}
{{- end -}}
{{- $namespaces | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "sluice.ports.http" -}}
{{- dig "ingress" "httpPort" 80 .Values.config -}}
{{- end -}}

{{- define "sluice.ports.https" -}}
{{- dig "ingress" "httpsPort" 443 .Values.config -}}
{{- end -}}

{{/* The flags of `sluice run` that all roles have. */}}
{{- define "sluice.args" -}}
- run
- --kube
{{- range include "sluice.namespaces" . | fromJsonArray }}
- --namespace={{ . }}
{{- end }}
- --metrics-address={{ .Values.metrics.host }}:{{ .Values.metrics.port }}
- --state-dir=/var/lib/sluice
- --log-format={{ .Values.log.format }}
- --log-level={{ .Values.log.level }}
{{- end -}}

{{/* A pod is not root, can't become root, holds no capability, and writes nowhere but into memory. */}}
{{- define "sluice.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "sluice.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Probes of the metrics port. A pod that waits for the API server at its start lives, and is not ready. */}}
{{- define "sluice.probes" -}}
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{/* What is read: kinds that have no namespace. */}}
{{- define "sluice.rbac.cluster" -}}
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingressclasses]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses]
  verbs: [list, watch]
{{- end -}}

{{/* What is read of each namespace. */}}
{{- define "sluice.rbac.namespaced" -}}
- apiGroups: [""]
  resources: [configmaps, secrets, services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies, gateways, httproutes, referencegrants]
  verbs: [list, watch]
- apiGroups: [sluice.dev]
  resources: [gatewayconfigs, plugins, trafficpolicies]
  verbs: [list, watch]
{{- end -}}

{{- define "sluice.hasGatewayClass" -}}
{{- if or (eq .Values.gatewayClass.create "Always") (and (eq .Values.gatewayClass.create "IfServed") (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/GatewayClass")) -}}
true
{{- end -}}
{{- end -}}
