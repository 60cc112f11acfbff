<?php
// Before every script (PHP's auto_prepend_file): Laravel's classes, and how a script gets and gives JSON.

error_reporting(E_ALL & ~E_DEPRECATED);
ini_set('display_errors', 'stderr');

require_once 'Illuminate/Database/autoload.php';
require_once 'Illuminate/Encryption/autoload.php';

use Illuminate\Database\Capsule\Manager;
use Illuminate\Database\Eloquent\Model;
use Illuminate\Encryption\Encrypter;

/** The key as in APP_KEY; its length and "CBC" or "GCM" name the cipher. */
function encrypter(string $key, string $mode = 'CBC'): Encrypter
{
    $raw = strpos($key, 'base64:') === 0 ? base64_decode(substr($key, 7)) : $key;
    return new Encrypter($raw, 'AES-' . 8 * strlen($raw) . '-' . $mode);
}

/** Eloquent on one connection (Laravel's array: driver, host, …), with casts of the key where one is given. */
function eloquent(array $connection, ?string $key = null, string $mode = 'CBC'): Manager
{
    $capsule = new Manager();
    $capsule->addConnection($connection);
    $capsule->setAsGlobal();
    $capsule->bootEloquent();
    if ($key !== null) {
        Model::encryptUsing(encrypter($key, $mode));
    }
    return $capsule;
}

/** What Python's run_php was given. */
function payload()
{
    return json_decode(stream_get_contents(STDIN), true, 512, JSON_THROW_ON_ERROR);
}

/** One line of JSON; floats stay floats. */
function answer($value): void
{
    fwrite(STDOUT, json_encode($value, JSON_THROW_ON_ERROR | JSON_PRESERVE_ZERO_FRACTION) . "\n");
}
