/** What is kept of a Grafana: its kinds of objects, and what is known of each beside its content. */
import { hash } from 'node:crypto';
import { canonical, type Json } from './json.ts';

/** In the order in which they can be made anew: each needs only what stands before it. */
export const objectTypes = [
  'folder',
  'datasource',
  'library-element',
  'dashboard',
  'mute-timing',
  'template',
  'contact-point',
  'policy',
  'rule-group',
] as const;

export type ObjectType = (typeof objectTypes)[number];

export interface ObjectKey {
  /** Grafana's number of the organization. */
  org: number;
  type: ObjectType;
  /**
   * Grafana's own uid; of mute timings and templates their name, of the one policy tree `root`, of a rule group
   * `<folder's uid>/<name>`.
   */
  uid: string;
}

/** Who may change it: anybody (''), whoever uses the provisioning API, or only the files that it comes from. */
export type Provenance = '' | 'api' | 'file';

export interface ObjectMeta extends ObjectKey {
  title: string;
  /** Grafana's number, where it counts. */
  version: number | null;
  /** When and by whom it was saved, as Grafana says; 0 and '' where it does not. */
  savedMicros: number;
  author: string;
  message: string;
  provenance: Provenance;
}

export interface GrafanaObject {
  meta: ObjectMeta;
  /** Without what changes although nobody changed it: numbers that only this server knows, versions, times. */
  content: Json;
}

/** What a person calls each type. */
export const typeNames: Readonly<Record<ObjectType, string>> = {
  folder: 'folder',
  datasource: 'data source',
  'library-element': 'library panel',
  dashboard: 'dashboard',
  'mute-timing': 'mute timing',
  template: 'template',
  'contact-point': 'contact point',
  policy: 'notification policies',
  'rule-group': 'alert rules',
};

export function keyText({ org, type, uid }: ObjectKey): string {
  return `${org}/${type}/${uid}`;
}

export function keyOf({ org, type, uid }: ObjectKey): ObjectKey {
  return { org, type, uid };
}

export function contentBytes(content: Json): Buffer {
  return Buffer.from(canonical(content), 'utf8');
}

export function sha256Of(bytes: Buffer): string {
  return hash('sha256', bytes);
}

/** `folder's uid/name` → both. */
export function ruleGroupOf(uid: string): { folderUid: string; group: string } {
  const slash = uid.indexOf('/');
  return { folderUid: uid.slice(0, slash), group: uid.slice(slash + 1) };
}

/** In the order in which they can be made anew, folders' parents not regarded. */
export function inOrder(one: ObjectKey, other: ObjectKey): number {
  const types = objectTypes.indexOf(one.type) - objectTypes.indexOf(other.type);
  if (one.org !== other.org) return one.org - other.org;
  if (types !== 0) return types;
  return one.uid < other.uid ? -1 : 1;
}
