/**
 * Puts objects into a Grafana, each by the call that is made for it. Where Grafana counts versions the present one is
 * given, so that a change of somebody else is not overwritten unseen: that is answered with 412 (or 409), and looked at
 * anew.
 */
import {
  canonical,
  type Json,
  type JsonObject,
  objectOf,
  objectsOf,
  textOf,
  without,
} from '../../core/grafana/json.ts';
import { type GrafanaObject, ruleGroupOf } from '../../core/grafana/objects.ts';
import { writeResource } from '../../core/grafana/resources.ts';
import type { GrafanaServer, Outcome } from '../../core/grafana/server.ts';

const alerting = '/api/v1/provisioning';

export interface WriterOptions {
  server: GrafanaServer;
  org: number;
  message: string;
  signal: AbortSignal;
}

export class GrafanaWriter {
  readonly #options: WriterOptions;

  constructor(options: WriterOptions) {
    this.#options = options;
  }

  /** `present`: as it is in the server; null where it is to be made. */
  async write(wanted: GrafanaObject, present: GrafanaObject | null): Promise<Outcome> {
    const content = objectOf(wanted.content);
    const uid = encodeURIComponent(wanted.meta.uid);
    switch (wanted.meta.type) {
      case 'folder':
        return await this.#folder(wanted.meta.uid, content, present);
      case 'datasource':
        return present === null
          ? await this.#send('POST', '/api/datasources', without(content, 'secureFields'))
          : await this.#send('PUT', `/api/datasources/uid/${uid}`, without(content, 'secureFields'));
      case 'library-element':
        return await this.#libraryElement(wanted, content, present);
      case 'dashboard':
        return await this.#dashboard(wanted, content, present);
      case 'mute-timing':
        return present === null
          ? await this.#alerting('POST', 'mute-timings', content, wanted, present)
          : await this.#alerting('PUT', `mute-timings/${uid}`, content, wanted, present);
      case 'template':
        return await this.#alerting('PUT', `templates/${uid}`, { template: content.template ?? '' }, wanted, present);
      case 'contact-point':
        return present === null
          ? await this.#alerting('POST', 'contact-points', content, wanted, present)
          : await this.#alerting('PUT', `contact-points/${uid}`, content, wanted, present);
      case 'policy':
        return await this.#alerting('PUT', 'policies', content, wanted, present);
      case 'rule-group': {
        const { folderUid, group } = ruleGroupOf(wanted.meta.uid);
        const path = `folder/${encodeURIComponent(folderUid)}/rule-groups/${encodeURIComponent(group)}`;
        const rules = objectsOf(content.rules).map((rule) => ({ ...rule, orgID: this.#options.org }));
        return await this.#alerting('PUT', path, { ...content, rules }, wanted, present);
      }
    }
  }

  async #folder(uid: string, content: JsonObject, present: GrafanaObject | null): Promise<Outcome> {
    const { title = '', parentUid = '', permissions } = content;
    const held = objectOf(present?.content);
    const path = `/api/folders/${encodeURIComponent(uid)}`;
    if (present === null) {
      const place = parentUid === '' ? {} : { parentUid };
      const made = await this.#send('POST', '/api/folders', { uid, title, ...place });
      if (!made.done) return made;
    } else if (held.title !== title) {
      const { version } = present.meta;
      // With nested folders some 10 count no versions of them (grafana/grafana#59298): there is nothing to hold on to then.
      const seen = version === null ? { overwrite: true } : { version, overwrite: false };
      const changed = await this.#send('PUT', path, { title, ...seen });
      if (!changed.done) return changed;
    }
    if (present !== null && (held.parentUid ?? '') !== parentUid) {
      const moved = await this.#send('POST', `${path}/move`, { parentUid });
      if (!moved.done) return moved;
    }
    if (present !== null && canonical(held.permissions ?? []) === canonical(permissions ?? [])) return done;
    return await this.#send('POST', `${path}/permissions`, { items: await this.#withIds(objectsOf(permissions)) });
  }

  async #libraryElement(wanted: GrafanaObject, content: JsonObject, present: GrafanaObject | null): Promise<Outcome> {
    const { name = '', kind = 1, model = {}, folderUid = '' } = content;
    const { uid } = wanted.meta;
    if (present === null)
      return await this.#send('POST', '/api/library-elements', { uid, name, kind, model, folderUid });
    const changed = { name, kind, model, folderUid, version: present.meta.version };
    return await this.#send('PATCH', `/api/library-elements/${encodeURIComponent(uid)}`, changed);
  }

  async #dashboard(wanted: GrafanaObject, content: JsonObject, present: GrafanaObject | null): Promise<Outcome> {
    const { server, org, message, signal } = this.#options;
    const { uid } = wanted.meta;
    const folderUid = textOf(content.folderUid);
    if (content.resource !== undefined) {
      const resource = objectOf(content.resource);
      return await writeResource(server, org, uid, { resource, folderUid, message }, signal);
    }
    const own: JsonObject = { id: null, uid };
    if (present !== null) {
      // Its number in this server, and the version that was seen: another one is answered with 412.
      const { body } = await server.findIfTold(`/api/dashboards/uid/${encodeURIComponent(uid)}`, signal);
      const now = objectOf(objectOf(body).dashboard);
      own.id = now.id ?? null;
      own.version = present.meta.version;
    }
    const dashboard = { ...objectOf(content.dashboard), ...own };
    return await this.#send('POST', '/api/dashboards/db', { dashboard, folderUid, message, overwrite: false });
  }

  /** What belongs to the API stays so, and so does what belongs to nobody. */
  async #alerting(
    method: 'POST' | 'PUT',
    path: string,
    content: JsonObject,
    wanted: GrafanaObject,
    present: GrafanaObject | null,
  ): Promise<Outcome> {
    const { server, signal } = this.#options;
    const send = (headers: Record<string, string>) =>
      server.send(method, `${alerting}/${path}`, content, signal, headers);
    if ((present ?? wanted).meta.provenance === 'api') return await send({});
    const outcome = await send({ 'x-disable-provenance': 'true' });
    // Before 10.4 templates do not tell that they belong to the API (grafana/grafana#82274).
    return !outcome.done && outcome.reason.includes("change provenance from 'api'") ? await send({}) : outcome;
  }

  /** The items that can be given here: teams and users have numbers of their own in each server. */
  async #withIds(items: readonly JsonObject[]): Promise<Json[]> {
    const given: Json[] = [];
    for (const { team, user, ...rest } of items) {
      const id = team !== undefined ? await this.teamId(textOf(team)) : await this.userId(textOf(user));
      if (team !== undefined && id !== null) given.push({ ...rest, teamId: id });
      else if (user !== undefined && id !== null) given.push({ ...rest, userId: id });
      else if (team === undefined && user === undefined) given.push(rest);
    }
    return given;
  }

  /** null: there is no team of that name. */
  async teamId(name: string): Promise<number | null> {
    const { server, signal } = this.#options;
    const found = objectOf(await server.get(`/api/teams/search?name=${encodeURIComponent(name)}`, signal));
    const team = objectsOf(found.teams).find((one) => one.name === name);
    return typeof team?.id === 'number' ? team.id : null;
  }

  /** null: the organization has no user of that login. */
  async userId(login: string): Promise<number | null> {
    if (login === '') return null;
    const { server, signal } = this.#options;
    const users = objectsOf(await server.get('/api/org/users', signal));
    const user = users.find((one) => one.login === login);
    return typeof user?.userId === 'number' ? user.userId : null;
  }

  async #send(method: 'POST' | 'PUT' | 'PATCH', path: string, content: JsonObject): Promise<Outcome> {
    return await this.#options.server.send(method, path, content, this.#options.signal);
  }
}

const done: Outcome = { done: true, body: null };
