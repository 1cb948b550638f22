{{- define "twinvault.labels" -}}
app.kubernetes.io/name: twinvault
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* Labels that pods of one component are selected by. Arguments: the root, the component. */}}
{{- define "twinvault.selector" -}}
app.kubernetes.io/name: twinvault
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Full reference of an image. Arguments: the root, the key below .Values.image. */}}
{{- define "twinvault.image" -}}
{{- $root := index . 0 }}
{{- $image := index $root.Values.image (index . 1) }}
{{- $tag := $image.tag | default $root.Chart.AppVersion }}
{{- $name := printf "%s/%s" (trimSuffix "/" $root.Values.image.registry) $image.repository }}
{{- if $image.digest }}{{ $name }}@{{ $image.digest }}{{ else }}{{ $name }}:{{ $tag }}{{ end }}
{{- end }}

{{- define "twinvault.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Annotations of a pod that serves metrics, and those of the values. Arguments: the root, the port. */}}
{{- define "twinvault.scrape" -}}
{{- if (index . 0).Values.metrics.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ index . 1 | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- with (index . 0).Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Environment that every process of twinvault reads. */}}
{{- define "twinvault.environment" -}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: TWINVAULT_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- end }}

{{- /* Probes of a process of twinvault. Its start may take long on a busy node; killing it
       later costs more than waiting. */}}
{{- define "twinvault.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- /* Security of a pod that needs nothing of its node. */}}
{{- define "twinvault.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "twinvault.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Where a pod of two replicas runs: apart from its twin, at the other site if there is one,
       and soon elsewhere when its node is lost. Arguments: the root, the component, its values. */}}
{{- define "twinvault.scheduling" -}}
{{- $root := index . 0 }}
{{- $values := index . 2 }}
priorityClassName: system-cluster-critical
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $root.Values.evictAfterSeconds }}}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $root.Values.evictAfterSeconds }}}
  # A node that was lost is closed until its volumes are in sync again: that is no reason for the
  # standby, which may run nowhere else, to wait.
  - {key: twinvault.io/resyncing, operator: Exists}
  {{- with $values.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- /* Never two on one node, not even until a lost node is back: whoever loses the node would lose
       both, and a failover would wait until a new one has started. Pods of an older revision do
       not count, or an upgrade would put both where the old ones leave room. A site is only
       preferred: nodes may have no zone. */}}
topologySpreadConstraints:
  {{- range $key, $unsatisfiable := dict "topology.kubernetes.io/zone" "ScheduleAnyway" "kubernetes.io/hostname" "DoNotSchedule" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: {{ $unsatisfiable }}
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{- include "twinvault.selector" (list $root (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end }}

{{- /* A sidecar of the CSI controller. Arguments: the root, the key of its image, its place
       among the ports, its own arguments. */}}
{{- define "twinvault.sidecar" -}}
{{- $root := index . 0 }}
{{- $values := $root.Values.sidecars }}
{{- $port := add $values.firstPort (index . 2) }}
- name: csi-{{ index . 1 }}
  image: {{ include "twinvault.image" (list $root (index . 1)) }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --http-endpoint=:{{ $port }}
    - --v={{ $values.verbosity }}
    - --kube-api-qps={{ $values.kubeApiQps }}
    - --kube-api-burst={{ $values.kubeApiBurst }}
    - --timeout={{ $values.timeout }}
    - --retry-interval-start=500ms
    - --retry-interval-max=5s
    {{- include "twinvault.leaderElection" $values | nindent 4 }}
    {{- range index . 3 }}
    - {{ . }}
    {{- end }}
  env:
    - name: NAMESPACE
      valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
    - name: POD_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
  ports:
    - {name: {{ index . 1 }}, containerPort: {{ $port }}}
  livenessProbe:
    httpGet: {path: /healthz/leader-election, port: {{ $port }}}
    initialDelaySeconds: 30
    periodSeconds: 20
    timeoutSeconds: 10
    failureThreshold: 3
  securityContext: {{- include "twinvault.containerSecurity" $root | nindent 4 }}
  resources: {{- toYaml $values.resources | nindent 4 }}
  volumeMounts:
    - {name: socket, mountPath: /csi}
{{- end }}

{{- define "twinvault.leaderElection" -}}
- --leader-election
- --leader-election-lease-duration={{ .leaderElection.leaseDuration }}
- --leader-election-renew-deadline={{ .leaderElection.renewDeadline }}
- --leader-election-retry-period={{ .leaderElection.retryPeriod }}
{{- end }}

{{- /* Binds a ClusterRole, and a Role of the same name, to a ServiceAccount of the same or
       another name. Arguments: the root, the role, the ServiceAccount. */}}
{{- define "twinvault.bindings" -}}
{{- $root := index . 0 }}
{{- range $kind := list "ClusterRole" "Role" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ index $ 1 }}
  {{- if eq $kind "Role" }}
  namespace: {{ $root.Release.Namespace }}
  {{- end }}
  labels: {{- include "twinvault.labels" $root | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ index $ 1 }}}
subjects:
  - {kind: ServiceAccount, name: {{ index $ 2 }}, namespace: {{ $root.Release.Namespace }}}
{{- end }}
{{- end }}

{{- /* "true" when the snapshot-controller belongs to this release. */}}
{{- define "twinvault.ownSnapshotController" -}}
{{- if eq .Values.snapshots.controller "always" }}true{{ end }}
{{- if eq .Values.snapshots.controller "auto" }}
{{- $foreign := false }}
{{- range (lookup "apps/v1" "Deployment" "" "").items }}
{{- $ours := and (eq .metadata.namespace $.Release.Namespace) (eq (dig "labels" "app.kubernetes.io/instance" "" .metadata) $.Release.Name) }}
{{- range .spec.template.spec.containers }}
{{- if and (not $ours) (or (contains "snapshot-controller" .image) (eq "snapshot-controller" .name)) }}
{{- $foreign = true }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $foreign }}true{{ end }}
{{- end }}
{{- end }}
