/**
 * Dashboards of the second schema (Grafana 12 and later, `dashboard.grafana.app`): the older API answers them converted
 * down, which loses tabs and conditional rows. So they are kept as they are stored, beside that answer.
 *
 * Shapes: grafana.com/docs/grafana/latest/developers/http_api/apis and …/dashboard (the new dashboard APIs).
 */
import { isObject, type Json, type JsonObject, objectOf, textOf } from './json.ts';
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

/** `{ apiVersion, spec }` as it is stored; null where the older API tells all of it. */
export async function readResource(
  server: GrafanaServer,
  org: number,
  uid: string,
  signal: AbortSignal,
): Promise<JsonObject | null> {
  const stored = await storedVersion(server, org, uid, signal);
  if (stored === null) return null;
  const found = objectOf(await server.find(pathOf(stored, org, uid), signal));
  return isObject(found.spec) ? { apiVersion: `${group}/${stored}`, spec: found.spec } : null;
}

async function storedVersion(
  server: GrafanaServer,
  org: number,
  uid: string,
  signal: AbortSignal,
): Promise<string | null> {
  const found = objectOf(await server.find(pathOf(asked, org, uid), signal));
  const stored = textOf(objectOf(objectOf(found.status).conversion).storedVersion);
  return /^v[2-9]/.test(stored) ? stored : null;
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
