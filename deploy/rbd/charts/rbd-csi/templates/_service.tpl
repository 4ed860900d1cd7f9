{{/*
The Service through which Prometheus finds the pods with the label app=APP.

Call: include "rbd-csi.service" (list . NAME APP .Values.….httpMetrics)
*/}}
{{- define "rbd-csi.service" -}}
{{- $root := index . 0 -}}
{{- $metrics := index . 3 -}}
{{- $service := $metrics.service -}}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    app: csi-metrics
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  {{- with $service.clusterIP }}
  clusterIP: {{ . | quote }}
  {{- end }}
  {{- with $service.externalIPs }}
  externalIPs:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $service.loadBalancerIP }}
  loadBalancerIP: {{ . }}
  {{- end }}
  {{- with $service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  # The metrics of a pod that is not ready are those that somebody wants to see.
  publishNotReadyAddresses: true
  selector:
    app: {{ index . 2 }}
  ports:
    - name: http-metrics
      port: {{ $service.servicePort }}
      protocol: TCP
      targetPort: {{ $metrics.containerPort }}
{{- end -}}
