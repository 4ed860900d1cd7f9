{{/*
What all sidecars of the Deployment have in common.

A values file of ceph-csi-rbd's may have `args:` with nothing in it, which takes the
default's port away; so the default is here once more.

Call: include "rbd-csi.sidecar.port" (list .Values.provisioner.attacher 8093)
      include "rbd-csi.sidecar" (list . .Values.provisioner.attacher 8093), from `ports` on
*/}}
{{- define "rbd-csi.sidecar.port" -}}
{{- (index . 0).args | default dict | dig "httpEndpointPort" (index . 1) -}}
{{- end -}}

{{- define "rbd-csi.sidecar" -}}
{{- $root := index . 0 -}}
{{- $sidecar := index . 1 -}}
{{- $port := include "rbd-csi.sidecar.port" (list $sidecar (index . 2)) -}}
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
