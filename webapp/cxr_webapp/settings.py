"""Django's settings, from the environment; docs/webapp.md lists the variables. Production is the default."""

from __future__ import annotations

import os
from pathlib import Path

from cxr_webapp.environment import Environment, database, version_of

_ENVIRONMENT = Environment(os.environ)
_FOLDER = Path(__file__).parent

# The page's own.
PNEUMOSCAN_URL = _ENVIRONMENT.text("URL", "http://127.0.0.1:8080")
PNEUMOSCAN_KEY = _ENVIRONMENT.key()
PNEUMOSCAN_SOCKET = Path(_ENVIRONMENT.text("SOCKET", "run/management.sock"))
PNEUMOSCAN_CARD = _ENVIRONMENT.text("CARD")
PNEUMOSCAN_EXAMPLES = _ENVIRONMENT.text("EXAMPLES")
PNEUMOSCAN_TIMEOUT_S = _ENVIRONMENT.number("TIMEOUT", 60)
PNEUMOSCAN_MAX_BYTES = 48 * 1024 * 1024  # the server's own limit: what is over it would only be refused there
PNEUMOSCAN_HISTORY = _ENVIRONMENT.text("HISTORY")
PNEUMOSCAN_RETENTION_DAYS = _ENVIRONMENT.number("RETENTION_DAYS", 30)

_HTTPS = _ENVIRONMENT.flag("HTTPS", True)

SECRET_KEY = _ENVIRONMENT.secret()
DEBUG = False
ALLOWED_HOSTS = _ENVIRONMENT.texts("HOSTS", "127.0.0.1,localhost")
CSRF_TRUSTED_ORIGINS = _ENVIRONMENT.texts("ORIGINS")

INSTALLED_APPS = ["django.contrib.staticfiles", "cxr_webapp"]
MIDDLEWARE = [
    "cxr_webapp.headers.Alive",
    "django.middleware.security.SecurityMiddleware",
    "cxr_webapp.headers.PageHeaders",
    "cxr_webapp.headers.CompressedStatic",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "cxr_webapp.urls"
WSGI_APPLICATION = "cxr_webapp.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "cxr_webapp.views.context",
            ]
        },
    }
]

# A database only for the history, and only where one is asked for. Sessions travel in the signed cookie.
DATABASES = {"default": database(PNEUMOSCAN_HISTORY)} if PNEUMOSCAN_HISTORY else {}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
SESSION_COOKIE_AGE = round(3600 * _ENVIRONMENT.number("SESSION_HOURS", 8))
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
# Lax: with Strict a link from another site comes without cookies, and the new token would end every tab that is open.
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "pneumoscan_session", "pneumoscan_csrf"  # ports of one host share their cookies
CSRF_COOKIE_HTTPONLY = True  # the page hands its scripts the token
CSRF_FAILURE_VIEW = "cxr_webapp.views.csrf_failure"

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _HTTPS
SECURE_SSL_REDIRECT = _HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if _HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _HTTPS and _ENVIRONMENT.flag("HSTS_SUBDOMAINS", True)
# Believed only where an edge sets it again on every request; from anyone else it would be a lie.
SECURE_PROXY_SSL_HEADER = (
    ("HTTP_X_FORWARDED_PROTO", "https") if _ENVIRONMENT.flag("BEHIND_EDGE", default=False) else None
)
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

# Forms are small; films come as raw bodies that cxr_webapp.inference counts while it reads them.
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20
FILE_UPLOAD_HANDLERS = ["cxr_webapp.inference.NoFiles"]

_EXAMPLES = [Path(PNEUMOSCAN_EXAMPLES)] if PNEUMOSCAN_EXAMPLES else []
# Scripts import each other by relative addresses: one version for all of them takes the place of a hash in each name.
STATIC_URL = f"static/{version_of(_FOLDER / 'static', *_EXAMPLES)}/"
STATICFILES_DIRS = [("webapp/examples", PNEUMOSCAN_EXAMPLES)] if PNEUMOSCAN_EXAMPLES else []
WHITENOISE_USE_FINDERS = True  # straight from the package: no collectstatic, nothing copied
WHITENOISE_AUTOREFRESH = False
WHITENOISE_IMMUTABLE_FILE_TEST = ".*"  # every address has the version

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
LOCALE_PATHS = [_FOLDER / "locale"]
USE_TZ = True
TIME_ZONE = _ENVIRONMENT.text("TIME_ZONE", "UTC")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    # A film that was refused is no event of the page.
    "loggers": {"django.request": {"level": "ERROR"}},
}
