/** What of a Grafana is restored, in the order in which each thing finds what it needs. */
import { isObject, type Json, objectOf, textOf } from '../../core/grafana/json.ts';
import { type GrafanaObject, inOrder, keyText } from '../../core/grafana/objects.ts';
import { type GrafanaState, opened } from '../../core/grafana/state.ts';

export interface Wanted {
  object: GrafanaObject;
  /** It is there for something else: what stands in the server already stays as it is. */
  onlyIfMissing: boolean;
}

/** All objects of an organization; folders before what lies in them. */
export function everything(state: GrafanaState, org: number): Wanted[] {
  const objects = [...state.objects.values()].filter(({ meta }) => meta.org === org).map(opened);
  objects.sort((a, b) => inOrder(a.meta, b.meta));
  const folders = parentsFirst(objects.filter(({ meta }) => meta.type === 'folder'));
  const others = objects.filter(({ meta }) => meta.type !== 'folder');
  return [...folders, ...others].map((object) => ({ object, onlyIfMissing: false }));
}

/** One dashboard, and what it needs; nothing where there was none of that uid. */
export function oneDashboard(state: GrafanaState, org: number, uid: string): Wanted[] {
  const all = everything(state, org);
  const dashboard = all.find(({ object: { meta } }) => meta.type === 'dashboard' && meta.uid === uid);
  if (dashboard === undefined) return [];
  const used = new Set<string>();
  const { content } = dashboard.object;
  collectUids(content, used);
  const byKey = new Map(all.map((one) => [keyText(one.object.meta), one]));
  const folders = new Set<string>();
  const climb = (folderUid: string) => {
    if (folderUid === '' || folders.has(folderUid)) return;
    folders.add(folderUid);
    const folder = byKey.get(keyText({ org, type: 'folder', uid: folderUid }));
    climb(textOf(objectOf(folder?.object.content).parentUid));
  };
  climb(textOf(objectOf(content).folderUid));
  const isNeeded = ({ object: { meta } }: Wanted) =>
    (meta.type === 'folder' && folders.has(meta.uid)) ||
    ((meta.type === 'library-element' || meta.type === 'datasource') && used.has(meta.uid));
  for (const one of all) {
    // A library panel lies in a folder of its own.
    if (one.object.meta.type === 'library-element' && isNeeded(one))
      climb(textOf(objectOf(one.object.content).folderUid));
  }
  return [...all.filter(isNeeded).map(({ object }) => ({ object, onlyIfMissing: true })), dashboard];
}

/** Whatever is called `uid` anywhere in it: data sources and library panels are named so. */
function collectUids(json: Json, found: Set<string>): void {
  if (Array.isArray(json)) for (const item of json) collectUids(item, found);
  if (!isObject(json)) return;
  for (const [key, value] of Object.entries(json)) {
    if (key === 'uid' && typeof value === 'string') found.add(value);
    else collectUids(value, found);
  }
}

/** A folder whose parent is unknown, or that lies in itself, stands at the end. */
function parentsFirst(folders: readonly GrafanaObject[]): GrafanaObject[] {
  const left = new Map(folders.map((folder) => [folder.meta.uid, folder]));
  const ordered: GrafanaObject[] = [];
  for (let found = true; found; ) {
    found = false;
    for (const [uid, folder] of left) {
      if (left.has(textOf(objectOf(folder.content).parentUid))) continue;
      ordered.push(folder);
      left.delete(uid);
      found = true;
    }
  }
  return [...ordered, ...left.values()];
}
