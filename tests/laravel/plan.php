<?php
// What the application itself computes: the enabled credentials of each lead's entity and project, by Eloquent.
// Standard input: {"connection": {…}, "models": {…}}; standard output: {lead id: [credential id, …]}.

require_once 'Illuminate/Database/autoload.php';

use Illuminate\Database\Capsule\Manager;
use Illuminate\Database\Eloquent\Model;
use Illuminate\Database\Eloquent\Relations\Relation;
use Illuminate\Database\Eloquent\SoftDeletes;

class Told
{
    public static array $models;

    public static function of(string $part): array
    {
        return self::$models[$part];
    }
}

abstract class Base extends Model
{
    public $timestamps = false;
    public $incrementing = false;
    protected const PART = '';

    public function getTable()
    {
        return Told::of(static::PART)['table'];
    }

    protected static function booted()
    {
        $deletedAt = Told::of(static::PART)['deleted_at'] ?? null;
        if ($deletedAt !== null) {
            static::addGlobalScope('living', fn ($query) => $query->whereNull($query->qualifyColumn($deletedAt)));
        }
    }
}

class Lead extends Base
{
    protected const PART = 'leads';
    protected $keyType = 'string';

    public function getKeyName()
    {
        return Told::of('leads')['key'];
    }

    public function owner(string $part)
    {
        $keys = explode('->', Told::of('leads')[$part]);
        $value = $this->getAttribute(array_shift($keys));
        foreach ($keys as $key) {
            $value = is_string($value) ? json_decode($value, true) : $value;
            $value = $value[$key] ?? null;
        }
        return $value;
    }
}

class Credentials extends Base
{
    protected const PART = 'credentials';

    public static function enabled($query)
    {
        [$column, $values] = Told::of('credentials')['enabled'];
        return $query->whereIn($column, (array) $values);
    }
}

class EntityCredentials extends Base
{
    protected const PART = 'entity';

    public function credentials()
    {
        return $this->belongsTo(Credentials::class, Told::of(static::PART)['credential']);
    }
}

class ProjectCredentials extends EntityCredentials
{
    protected const PART = 'project';
}

class Entity extends Base
{
    protected const PART = 'entity';

    public function credentials()
    {
        if (Told::$models['style'] === 'morph') {
            $links = Told::of('links');
            return $this->morphToMany(Credentials::class, 'accountable', $links['table'], $links['owner'], $links['credential']);
        }
        $told = Told::of(static::PART);
        return $this->belongsToMany(Credentials::class, $told['pivot'], $told['owner'], $told['credential']);
    }

    public function getMorphClass()
    {
        return Told::of(static::PART)['class'];
    }
}

class Project extends Entity
{
    protected const PART = 'project';
}

function credentialsOf(string $part, $owner): array
{
    $told = Told::of($part);
    $enabled = fn ($query) => Credentials::enabled($query);
    if (Told::$models['style'] === 'links') {
        $class = $part === 'entity' ? EntityCredentials::class : ProjectCredentials::class;
        $links = $class::where($told['owner'], $owner);
        return $links->with(['credentials' => $enabled])->get()->pluck('credentials')->filter()->pluck('id')->all();
    }
    if (Told::$models['style'] === 'through') {
        $class = $part === 'entity' ? Entity::class : Project::class;
        $owners = $class::where($told['external'], $owner)->with(['credentials' => $enabled])->get();
        return $owners->pluck('credentials')->flatten()->pluck('id')->all();
    }
    $class = $part === 'entity' ? Entity::class : Project::class;
    $model = new $class();
    $model->id = $owner;
    return Credentials::enabled($model->credentials())->get()->pluck('id')->all();
}

$told = json_decode(stream_get_contents(STDIN), true, 512, JSON_THROW_ON_ERROR);
Told::$models = $told['models'];
$manager = new Manager();
$manager->addConnection($told['connection'] + ['prefix' => $told['models']['prefix'] ?? '']);
$manager->setAsGlobal();
$manager->bootEloquent();

$found = [];
foreach (Lead::all() as $lead) {
    $ids = [];
    foreach (['entity', 'project'] as $part) {
        $owner = $lead->owner($part);
        if ($owner !== null) {
            $ids = array_merge($ids, credentialsOf($part, $owner));
        }
    }
    $ids = array_values(array_unique($ids));
    sort($ids);
    $found[(string) $lead->getKey()] = $ids;
}
echo json_encode((object) $found);
