/**
 * Dashboards of the second schema (Grafana 12 and later, `dashboard.grafana.app`): the older API answers them converted
 * down, which loses tabs and conditional rows, or refuses to. So they are kept as they are stored, beside that answer.
 *
 * Shapes: grafana.com/docs/grafana/latest/developers/http_api/apis and …/dashboard (the new dashboard APIs).
 */
import { isObject, type Json, type JsonObject, numberOf, objectOf, textOf } from './json.ts';
import type { GrafanaServer, Outcome } from './server.ts';

const group = 'dashboard.grafana.app';
/** Served by every 12; it says in which version an object is stored. */
const asked = 'v1beta1';
const folderAnnotation = 'grafana.app/folder';
const messageAnnotation = 'grafana.app/message';

/** Of the organization; `default` is the first one. */
function namespaceOf(org: number): string {
  return org === 1 ? 'default' : `org-${org}`;
}

function pathOf(version: string, org: number, uid: string): string {
  return `/apis/${group}/${version}/namespaces/${namespaceOf(org)}/dashboards${uid === '' ? '' : `/${encodeURIComponent(uid)}`}`;
}

/** A dashboard as it is stored, when that is in another schema than the older API knows. */
export interface StoredDashboard {
  /** `{ apiVersion, spec }`. */
  resource: JsonObject;
  /** As nearly as the older schema can say it. */
  model: JsonObject;
  folderUid: string;
  /** What the older API counts as versions. */
  generation: number | null;
  updated: Json;
  updatedBy: Json;
}

/** null where the older API tells all of it, and where there is no such dashboard. */
export async function readResource(
  server: GrafanaServer,
  org: number,
  uid: string,
  signal: AbortSignal,
): Promise<StoredDashboard | null> {
  const converted = objectOf(await server.find(pathOf(asked, org, uid), signal));
  const stored = textOf(objectOf(objectOf(converted.status).conversion).storedVersion);
  if (!/^v[2-9]/.test(stored)) return null;
  const found = objectOf(await server.find(pathOf(stored, org, uid), signal));
  if (!isObject(found.spec)) return null;
  const metadata = objectOf(found.metadata);
  const annotations = objectOf(metadata.annotations);
  return {
    resource: { apiVersion: `${group}/${stored}`, spec: found.spec },
    model: { ...objectOf(converted.spec), uid, title: found.spec.title ?? '' },
    folderUid: textOf(annotations[folderAnnotation]),
    generation: numberOf(metadata.generation),
    updated: annotations['grafana.app/updatedTimestamp'] ?? metadata.creationTimestamp ?? '',
    updatedBy: annotations['grafana.app/updatedBy'] ?? '',
  };
}

/** Makes or replaces one; refused with 409 when somebody changed it since `present` was read. */
export async function writeResource(
  server: GrafanaServer,
  org: number,
  uid: string,
  { resource, folderUid, message }: { resource: JsonObject; folderUid: string; message: string },
  signal: AbortSignal,
): Promise<Outcome> {
  const apiVersion = textOf(resource.apiVersion);
  const version = apiVersion.replace(/^.*\//, '');
  const present = objectOf(await server.find(pathOf(version, org, uid), signal));
  const held = textOf(objectOf(present.metadata).resourceVersion);
  const annotations: JsonObject = { [messageAnnotation]: message };
  if (folderUid !== '') annotations[folderAnnotation] = folderUid;
  const metadata: JsonObject = { name: uid, namespace: namespaceOf(org), annotations };
  if (held !== '') metadata.resourceVersion = held;
  const content: Json = { apiVersion, kind: 'Dashboard', metadata, spec: resource.spec ?? {} };
  return held === ''
    ? await server.send('POST', pathOf(version, org, ''), content, signal)
    : await server.send('PUT', pathOf(version, org, uid), content, signal);
}
