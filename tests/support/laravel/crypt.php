<?php
// Laravel's encrypter as a server: one JSON request a line, one JSON answer a line, until standard input ends.

while (($line = fgets(STDIN)) !== false) {
    $asked = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
    try {
        answer(['value' => done($asked)]);
    } catch (Throwable $error) {
        answer(['error' => get_class($error) . ': ' . $error->getMessage()]);
    }
}

function done(array $asked)
{
    $value = $asked['value'];
    switch ($asked['do']) {
        case 'encrypt':
            return encrypter($asked['key'], $asked['mode'])->encrypt($value, $asked['serialize']);
        case 'decrypt':
            return encrypter($asked['key'], $asked['mode'])->decrypt($value, $asked['serialize']);
        case 'serialize':
            return base64_encode(serialize($value));
        case 'unserialize':
            return unserialize(base64_decode($value), ['allowed_classes' => false]);
        case 'object':
            return encrypter($asked['key'], $asked['mode'])->encrypt((object) $value);
    }
    throw new LogicException('asked for something else');
}
