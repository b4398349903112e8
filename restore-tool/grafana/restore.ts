/**
 * Brings a running Grafana to what another one, or itself, was at an instant: what is missing is made, what differs is
 * changed, what is the same is left alone, and so is what was not there at that instant. Nothing is ever deleted, and the
 * same command once more finds everything the same.
 */
import { canonical, type JsonObject, objectOf, objectsOf, textOf } from '../../core/grafana/json.ts';
import { type GrafanaObject, keyOf } from '../../core/grafana/objects.ts';
import { GrafanaReader } from '../../core/grafana/reader.ts';
import { everything, oneDashboard, type Wanted } from './select.ts';
import type { GrafanaRestoreReport, GrafanaRestoreRequest, RestoreStep, Secret, Target } from './types.ts';
import { GrafanaWriter } from './writer.ts';

/** How often a change of somebody else in between is looked at anew. */
const attempts = 3;
const redacted = '[REDACTED]';

export async function restoreGrafana(request: GrafanaRestoreRequest): Promise<GrafanaRestoreReport> {
  const steps: RestoreStep[] = [];
  const secrets: Secret[] = [];
  for (const target of request.targets) {
    const { state, dashboard } = request;
    const wanted =
      dashboard === null ? everything(state, target.fromOrg) : oneDashboard(state, target.fromOrg, dashboard);
    const room = new Room(request, target);
    for (const one of wanted) {
      request.signal.throwIfAborted();
      const step = await room.bring(one);
      if (step === null) continue;
      steps.push(step);
      request.onStep(step);
    }
    secrets.push(...room.secrets);
  }
  return { steps, secrets };
}

/** One organization of a server. */
class Room {
  readonly secrets: Secret[] = [];
  readonly #request: GrafanaRestoreRequest;
  readonly #reader: GrafanaReader;
  readonly #writer: GrafanaWriter;

  constructor(request: GrafanaRestoreRequest, { server, org, version }: Target) {
    const { message, signal } = request;
    this.#request = request;
    this.#reader = new GrafanaReader(server, { org, version }, signal);
    this.#writer = new GrafanaWriter({ server, org, message, signal });
  }

  /** null: nothing is to be said of it. */
  async bring({ object, onlyIfMissing }: Wanted): Promise<RestoreStep | null> {
    const { wanted: adapted, notes: shared } = await this.#adapted(object);
    for (let attempt = 1; ; attempt += 1) {
      const present = await this.#reader.fetch(adapted.meta);
      if (present !== null && onlyIfMissing) return null;
      const { wanted, kept } = withKeptRules(adapted, present);
      const notes = [...shared, ...kept.map((title) => `keeps rule ${title}, which was not there`)];
      const judged = this.#judge(wanted, present);
      this.#noteSecrets(wanted, present, judged.action);
      const step = { ...keyOf(wanted.meta), title: wanted.meta.title, ...judged, notes };
      if (this.#request.isDryRun || judged.action === 'same' || judged.action === 'refused') return step;
      const outcome = await this.#writer.write(wanted, present);
      if (outcome.done) return step;
      const isOvertaken =
        (outcome.status === 412 && (outcome.kind === 'version-mismatch' || outcome.kind === '')) ||
        // Of the newer API for dashboards.
        (outcome.status === 409 && wanted.meta.type === 'dashboard');
      if (isOvertaken && attempt < attempts) continue;
      return { ...step, action: 'refused', reason: `Grafana answers ${outcome.status}: ${outcome.reason}` };
    }
  }

  #judge(wanted: GrafanaObject, present: GrafanaObject | null): Pick<RestoreStep, 'action' | 'reason'> {
    const isFromFiles = wanted.meta.provenance === 'file' && !this.#request.withProvisioned;
    const fromFiles = 'it comes from provisioning files: put those back (or --with-provisioned makes it without them)';
    if (present === null)
      return isFromFiles ? { action: 'refused', reason: fromFiles } : { action: 'create', reason: '' };
    if (comparable(wanted) === comparable(present)) return { action: 'same', reason: '' };
    if (present.meta.provenance === 'file')
      return {
        action: 'refused',
        reason: 'in this Grafana it is provisioned from files, and only those can change it',
      };
    if (isFromFiles) return { action: 'refused', reason: fromFiles };
    if (present.meta.uid.startsWith('=') && present.meta.type === 'contact-point')
      return { action: 'refused', reason: 'Grafana made it by itself and gave it no uid: change it by hand' };
    return { action: 'update', reason: '' };
  }

  /** Permissions can only be given to teams and users that are there. */
  async #adapted(object: GrafanaObject): Promise<{ wanted: GrafanaObject; notes: string[] }> {
    if (object.meta.type !== 'folder') return { wanted: object, notes: [] };
    const content = objectOf(object.content);
    const permissions: JsonObject[] = [];
    const notes: string[] = [];
    for (const item of objectsOf(content.permissions)) {
      const { team, user } = item;
      const isKnown =
        (team === undefined || (await this.#writer.teamId(textOf(team))) !== null) &&
        (user === undefined || (await this.#writer.userId(textOf(user))) !== null);
      if (isKnown) permissions.push(item);
      else
        notes.push(
          `no permission for ${team === undefined ? 'user' : 'team'} ${textOf(team ?? user)}, who is not in this Grafana`,
        );
    }
    return { wanted: { ...object, content: { ...content, permissions } }, notes };
  }

  #noteSecrets({ meta, content }: GrafanaObject, present: GrafanaObject | null, action: RestoreStep['action']): void {
    if (action === 'refused') return;
    const key = keyOf(meta);
    const fields = new Set<string>();
    if (meta.type === 'datasource') {
      const held = namesOf(objectOf(present?.content).secureFields);
      for (const name of namesOf(objectOf(content).secureFields)) if (!held.includes(name)) fields.add(name);
    }
    if (meta.type === 'contact-point' && action === 'create')
      for (const [name, value] of Object.entries(objectOf(objectOf(content).settings)))
        if (value === redacted) fields.add(name);
    const isNoted = this.secrets.some((one) => one.type === meta.type && one.uid === meta.uid);
    if (fields.size > 0 && !isNoted) this.secrets.push({ ...key, title: meta.title, fields: [...fields].sort() });
  }
}

/** A group is written whole: rules that were made in it since stay, at its end. */
function withKeptRules(
  wanted: GrafanaObject,
  present: GrafanaObject | null,
): { wanted: GrafanaObject; kept: string[] } {
  if (wanted.meta.type !== 'rule-group' || present === null) return { wanted, kept: [] };
  const content = objectOf(wanted.content);
  const rules = objectsOf(content.rules);
  const known = new Set(rules.map(({ uid }) => textOf(uid)));
  const kept = objectsOf(objectOf(present.content).rules).filter(({ uid }) => !known.has(textOf(uid)));
  if (kept.length === 0) return { wanted, kept: [] };
  return {
    wanted: { ...wanted, content: { ...content, rules: [...rules, ...kept] } },
    kept: kept.map(({ title }) => textOf(title)),
  };
}

function namesOf(json: unknown): string[] {
  return Array.isArray(json) ? json.filter((one) => typeof one === 'string') : [];
}

/** Without what may differ between two that are the same: which secrets were entered, and what stands for the organization. */
function comparable({ meta, content }: GrafanaObject): string {
  if (meta.type !== 'datasource') return canonical(content);
  const { secureFields: _, ...rest } = objectOf(content);
  return canonical(rest);
}
