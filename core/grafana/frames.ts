/** What a Grafana's journal holds. FORMAT.md ("Frames of Grafana") is the authority for kinds, meta and bodies. */
import { z } from 'zod';
import { damagedFrame, type JournalFrame, type JournalItem } from '../journal/frame.ts';
import { type ObjectKey, type ObjectMeta, objectTypes, sha256Of } from './objects.ts';

export const frameKinds = { object: 1, version: 2, deleted: 3, organization: 4 } as const;

/** A part of the meta: it is bounded, and Grafana's own texts are not. */
const textMax = 4096;

export interface OrganizationMeta {
  org: number;
  name: string;
  /** Of Grafana, as it says. */
  serverVersion: string;
}

const keyShape = {
  org: z.number().int().min(0),
  type: z.enum(objectTypes),
  uid: z.string(),
};
export const metaSchema = z.object({
  ...keyShape,
  title: z.string(),
  version: z.number().nullable(),
  savedMicros: z.number(),
  author: z.string(),
  message: z.string(),
  provenance: z.enum(['', 'api', 'file']),
});
const objectSchema = metaSchema.extend({ sha256: z.string() });
const deletedSchema = z.object({ ...keyShape, title: z.string() });
const organizationSchema = z.object({ org: z.number().int().min(0), name: z.string(), serverVersion: z.string() });

const nothing = Buffer.alloc(0);

/** The object as it is from now on. */
export function objectItem(meta: ObjectMeta, body: Buffer): JournalItem {
  return { kind: frameKinds.object, meta: { ...bounded(meta), sha256: sha256Of(body) }, body };
}

/** A dashboard as Grafana's own list of versions has it: one before the present state. */
export function versionItem(meta: ObjectMeta, body: Buffer): JournalItem {
  return { kind: frameKinds.version, meta: { ...bounded(meta), sha256: sha256Of(body) }, body };
}

export function deletedItem({ org, type, uid }: ObjectKey, title: string): JournalItem {
  return { kind: frameKinds.deleted, meta: { org, type, uid, title: title.slice(0, textMax) }, body: nothing };
}

export function organizationItem({ org, name, serverVersion }: OrganizationMeta): JournalItem {
  return { kind: frameKinds.organization, meta: { org, name: name.slice(0, textMax), serverVersion }, body: nothing };
}

function bounded(meta: ObjectMeta): ObjectMeta {
  const cut = (text: string) => text.slice(0, textMax);
  return { ...meta, title: cut(meta.title), author: cut(meta.author), message: cut(meta.message) };
}

/** One of them, by its kind. */
export type GrafanaFrame =
  | { kind: 'object' | 'version'; meta: ObjectMeta; sha256: string; body: Buffer }
  | { kind: 'deleted'; key: ObjectKey; title: string }
  | { kind: 'organization'; meta: OrganizationMeta };

/** Throws QZ3330 when it is none of these. `where` is for messages. */
export function openFrame({ kind, meta, body }: Omit<JournalFrame, 'arrivalMicros'>, where: string): GrafanaFrame {
  try {
    switch (kind) {
      case frameKinds.object:
      case frameKinds.version: {
        const { sha256, ...rest } = objectSchema.parse(meta);
        if (sha256Of(body) !== sha256) break;
        return { kind: kind === frameKinds.object ? 'object' : 'version', meta: rest, sha256, body };
      }
      case frameKinds.deleted: {
        const { title, ...key } = deletedSchema.parse(meta);
        return { kind: 'deleted', key, title };
      }
      case frameKinds.organization:
        return { kind: 'organization', meta: organizationSchema.parse(meta) };
    }
  } catch (error) {
    throw damagedFrame(where, `it is no frame of Grafana (${error instanceof Error ? error.name : 'unreadable'})`);
  }
  throw damagedFrame(where, `it is no frame of Grafana (kind ${kind})`);
}
