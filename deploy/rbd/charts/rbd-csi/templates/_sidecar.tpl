{{/*
What both sidecars of the Deployment have in common, from `ports` on.

Call: include "rbd-csi.sidecar" (list . .Values.provisioner.attacher)
*/}}
{{- define "rbd-csi.sidecar" -}}
{{- $root := index . 0 -}}
{{- $sidecar := index . 1 -}}
{{- $port := $sidecar.args.httpEndpointPort -}}
ports:
  - name: http-{{ $port }}
    containerPort: {{ $port }}
    protocol: TCP
# Fails when a leader cannot renew its lease and has not ended by itself.
livenessProbe:
  httpGet:
    path: /healthz/leader-election
    port: http-{{ $port }}
  initialDelaySeconds: 10
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 3
securityContext:
  {{- toYaml $root.Values.provisioner.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml $sidecar.resources | nindent 2 }}
volumeMounts:
  - name: socket-dir
    mountPath: /csi
{{- end -}}
