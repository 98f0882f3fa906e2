"""A Django site that loads its products before it forks: ``gunicorn --preload shop:app``.

Needs Django and gunicorn. ``PRODUCTS`` is the number of products. The products are Python objects,
so each look at one writes to its page: Python counts references there.
``GET /NUMBER`` answers with the mean price of 2000 products.
"""

import os
import random

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="an example", DEBUG=False)

source = random.Random(1)
products = [
    {
        "name": f"product {number}",
        "price": source.random(),
        "text": source.randbytes(200).hex(),
        "tags": [f"tag {source.randrange(10**6)}" for _ in range(3)],
    }
    for number in range(int(os.environ["PRODUCTS"]))
]


def mean(request: HttpRequest, number: int) -> HttpResponse:
    chosen = [products[(number * 7919 + it * 104729) % len(products)] for it in range(2000)]
    prices = [it["price"] for it in chosen if it["name"] and it["text"] and len(it["tags"]) == 3]
    return HttpResponse(f"{sum(prices) / len(prices):.12f}")


urlpatterns = [path("<int:number>", mean)]
app = get_wsgi_application()
