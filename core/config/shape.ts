/** Looking into zod schemas: the one place that knows how zod 4 keeps them. */
import type { z } from 'zod';

type Described = z.ZodType & { meta(): { description?: string } | undefined };

/** Through defaults and optionals to the object below, if there is one. */
export function shapeOf(schema: z.ZodType): Readonly<Record<string, Described>> | null {
  const definition = schema.def as { type: string; innerType?: z.ZodType; shape?: Record<string, Described> };
  if (definition.innerType) return shapeOf(definition.innerType);
  return definition.type === 'object' ? (definition.shape ?? null) : null;
}

/** What each item of a list of mappings is, through defaults and optionals; null for anything else. */
export function itemShapeOf(schema: z.ZodType): Readonly<Record<string, Described>> | null {
  const definition = schema.def as { type: string; innerType?: z.ZodType; element?: z.ZodType };
  if (definition.innerType) return itemShapeOf(definition.innerType);
  return definition.type === 'array' && definition.element ? shapeOf(definition.element) : null;
}

/** What stands below a key, in an object, a list or a mapping with free names. */
export function childOf(schema: z.ZodType, part: string | number): Described | undefined {
  const definition = schema.def as {
    type: string;
    innerType?: z.ZodType;
    valueType?: Described;
    element?: Described;
  };
  if (definition.innerType) return childOf(definition.innerType, part);
  if (definition.type === 'array') return definition.element;
  return definition.type === 'record' ? definition.valueType : shapeOf(schema)?.[part];
}
