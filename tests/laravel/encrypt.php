<?php
// Standard input: {"key": "base64:…", "action": …, "values": […]}; standard output: each value, `encrypt`ed as the cast
// `encrypted` (of an array: `encrypted:array`), as `serialize` by Crypt::encrypt; or back.

require_once 'Illuminate/Encryption/autoload.php';

use Illuminate\Encryption\Encrypter;

$told = json_decode(stream_get_contents(STDIN), true, 512, JSON_THROW_ON_ERROR);
$encrypter = new Encrypter(base64_decode(substr($told['key'], strlen('base64:'))), 'AES-256-CBC');
$actions = [
    'encrypt' => fn ($value) => $encrypter->encrypt(is_string($value) ? $value : json_encode($value), false),
    'serialize' => fn ($value) => $encrypter->encrypt($value),
    'decrypt' => fn ($value) => $encrypter->decrypt($value, false),
    'unserialize' => fn ($value) => $encrypter->decrypt($value),
];
echo json_encode(array_map($actions[$told['action'] ?? 'encrypt'], $told['values']));
